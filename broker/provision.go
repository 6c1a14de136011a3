package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// Provision makes the streams and buckets that a policy calls for, brings those
// that exist up to date, and stores the policy as the one in force. [Start] does
// this on an embedded node; an operator does it with js connected to an
// external cluster, in the account that holds the streams.
//
// raw is the signed policy and p what policy.Verify made of it; Provision relies
// on the caller having verified it. It may be repeated and it never deletes a
// stream: that of a topic which is retained no longer stays until an operator
// removes it. Where a topic is retained for less time than before, what is
// older goes. The number of replicas, placement and limits in bytes are left as
// they are.
//
// Nothing is changed when the store holds a policy that p may not follow. The
// error matches [ErrProvision]; also policy.ErrRollback or policy.ErrFork then,
// and otherwise what JetStream answered. Streams may then have been made or
// changed, the policy is stored last.
func Provision(ctx context.Context, js jetstream.JetStream, p *policy.Policy, raw []byte) error {
	if err := provision(ctx, js, p, raw); err != nil {
		return fmt.Errorf("%w: %w", ErrProvision, err)
	}
	return nil
}

func provision(ctx context.Context, js jetstream.JetStream, p *policy.Policy, raw []byte) error {
	if p == nil {
		return errors.New("no policy: give what policy.Verify returned")
	}
	given, err := parseStored(raw)
	if err != nil {
		return fmt.Errorf("the signed policy: %w", err)
	}
	if given.Hash() != p.Hash() {
		return errors.New("the signed policy is not the one that was verified: give policy.Verify's result and what it was made of")
	}
	list := streams(p)
	// The bucket of policies comes first in the list. What is in it decides
	// whether anything else may be touched.
	policies, err := ensure(ctx, js, list[0])
	if err != nil {
		return err
	}
	if _, _, err := inForce(ctx, policies, p); err != nil {
		return err
	}
	for _, want := range list[1:] {
		if _, err := ensure(ctx, js, want); err != nil {
			return err
		}
	}
	for _, q := range queues(p) {
		for _, want := range q.consumers() {
			if err := ensureConsumer(ctx, js, policy.TaskStream(q.name), want); err != nil {
				return err
			}
		}
	}
	return store(ctx, js, policies, p, raw)
}

// ensure makes a stream or brings it up to date.
func ensure(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	s, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			s, err = js.Stream(ctx, want.Name) // another node was quicker
		}
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", want.Name, err)
	}
	next, changed := merged(s.CachedInfo().Config, want)
	if !changed {
		return s, nil
	}
	if s, err = js.UpdateStream(ctx, next); err != nil {
		return nil, fmt.Errorf("bring stream %s up to date: %w", want.Name, err)
	}
	return s, nil
}

// ensureConsumer makes a durable consumer or brings it up to date.
func ensureConsumer(ctx context.Context, js jetstream.JetStream, stream string, want jetstream.ConsumerConfig) error {
	c, err := js.Consumer(ctx, stream, want.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		// Where another node is quicker, this asks for what there is.
		_, err = js.CreateConsumer(ctx, stream, want)
	} else if err == nil {
		if next, changed := mergedConsumer(c.CachedInfo().Config, want); changed {
			_, err = js.UpdateConsumer(ctx, stream, next)
		}
	}
	if err != nil {
		return fmt.Errorf("consumer %s of stream %s: %w", want.Durable, stream, err)
	}
	return nil
}

// inForce checks that p may follow the stored policy. It returns the sequence of
// that in the stream, 0 when there is none, and whether it is p itself.
func inForce(ctx context.Context, policies jetstream.Stream, p *policy.Policy) (sequence uint64, same bool, err error) {
	msg, err := policies.GetLastMsgForSubject(ctx, policySubject())
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read the stored policy: %w", err)
	}
	current, err := parseStored(msg.Data)
	if err != nil {
		return 0, false, fmt.Errorf("the stored policy cannot be read, so that nobody can say whether it is older: %w", err)
	}
	if err := p.CheckSuccessor(current); err != nil {
		return 0, false, err
	}
	return msg.Sequence, p.Hash() == current.Hash(), nil
}

// store puts the policy into force. Nodes of a cluster may do so at once with
// different revisions: each looks again when another was quicker.
func store(ctx context.Context, js jetstream.JetStream, policies jetstream.Stream, p *policy.Policy, raw []byte) error {
	for range maxStoredRetries {
		sequence, same, err := inForce(ctx, policies, p)
		if err != nil || same {
			return err
		}
		_, err = js.Publish(ctx, policySubject(), raw, jetstream.WithExpectLastSequencePerSubject(sequence))
		if err == nil {
			return nil
		}
		if !isConflict(err) {
			return fmt.Errorf("store the policy: %w", err)
		}
	}
	return errors.New("store the policy: other nodes keep replacing it: give all nodes the same one")
}

// isConflict reports whether a write was refused because another came before it.
func isConflict(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// parseStored reads a policy from the store, where it is not trusted but has to
// be ordered: it may well be signed by an operator key that is pinned no longer.
func parseStored(raw []byte) (*policy.Policy, error) {
	signer, err := policy.SignedBy(raw)
	if err != nil {
		return nil, err
	}
	return policy.Verify(raw, []identity.Fingerprint{signer})
}

func policySubject() string { return policy.BucketSubject(policy.BucketPolicy, policy.PolicyKey) }
