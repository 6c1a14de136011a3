package broker

import "errors"

var (
	// ErrConfig is returned when a field of [Config] cannot be used. The text
	// names the field and says what to write.
	ErrConfig = errors.New("broker: unusable configuration")

	// ErrTrustDomain is returned when the policy is for another trust domain
	// than the node's certificate.
	ErrTrustDomain = errors.New("broker: policy is for another trust domain")

	// ErrStoreInUse is returned when another node works on the store
	// directory. Two on one directory would destroy it.
	ErrStoreInUse = errors.New("broker: store directory is in use")

	// ErrStoreDir is returned when the store directory cannot be made or
	// written to.
	ErrStoreDir = errors.New("broker: store directory cannot be used")

	// ErrListen is returned when the node cannot listen on its address.
	ErrListen = errors.New("broker: cannot listen")

	// ErrServer is returned when the NATS server inside the node could not
	// start, or stopped by itself.
	ErrServer = errors.New("broker: NATS server failed")

	// ErrProvision is returned when a stream cannot be made or brought up to
	// date, or the policy cannot be stored. Where the store already holds a
	// newer policy the error also matches policy.ErrRollback, and where it
	// holds another one with the same revision policy.ErrFork.
	ErrProvision = errors.New("broker: provisioning failed")

	// ErrTrim is returned when a queue cannot be trimmed, because a stream or
	// a consumer of it is missing or is not as it was provisioned.
	ErrTrim = errors.New("broker: queue cannot be trimmed")

	// ErrUnhealthy is returned by [Node.Healthy] when the node cannot serve.
	ErrUnhealthy = errors.New("broker: node is not healthy")

	// ErrStopped is returned when the node was shut down.
	ErrStopped = errors.New("broker: node is shut down")
)
