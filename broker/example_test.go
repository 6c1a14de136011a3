package broker_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/policy"
)

// A node with throw-away certificates.
func Example() {
	node, stop, err := exampleNode()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()

	fmt.Println("node:", node.ID())
	fmt.Println("policy revision:", node.Policy().Revision())
	fmt.Println("streams:", node.Streams())
	fmt.Println("healthy:", node.Healthy(context.Background()) == nil)
	// Output:
	// node: spiffe://example.org/broker/n1
	// policy revision: 1
	// streams: [KV_SB_POLICY KV_SB_CARDS KV_SB_KEYS SB_TOPIC_prices]
	// healthy: true
}

func exampleNode() (node *broker.Node, stop func(), err error) {
	// In earnest the certificate comes from identity.LoadFiles, and the
	// operator's key never lies on the node's host.
	ca, err := devca.New("example.org")
	if err != nil {
		return nil, nil, err
	}
	src, err := ca.BrokerSource("n1", time.Hour)
	if err != nil {
		return nil, nil, err
	}
	operator, err := identity.GenerateOperatorKey()
	if err != nil {
		return nil, nil, err
	}
	signed, err := policy.Sign([]byte(`
trust_domain: example.org
revision: 1
topics:
  prices: {publish: ["feed-*"], subscribe: [planner], retain: 90d}
`), operator, time.Now())
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "sealbus-example")
	if err != nil {
		return nil, nil, err
	}
	node, err = broker.Start(context.Background(), broker.Config{
		Identity:  src,
		Policy:    signed,
		Operators: []identity.Fingerprint{operator.Fingerprint()},
		StoreDir:  dir,
		Listen:    "127.0.0.1:0",
		Logger:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, nil, err
	}
	return node, func() {
		_ = node.Shutdown(context.Background())
		_ = os.RemoveAll(dir)
	}, nil
}
