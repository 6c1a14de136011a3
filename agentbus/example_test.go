package agentbus_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// A price goes from a feed to whoever subscribes.
func ExampleBus_Publish() {
	ctx, example := context.Background(), startExample()
	defer example.stop()
	planner, feed := example.connect("planner"), example.connect("feed-1")

	done := make(chan bool)
	_, err := planner.Subscribe(ctx, "prices.>", func(_ context.Context, m *agentbus.Message) error {
		fmt.Printf("%s from %s: %s (%s)\n", m.Subject, m.Sender.Name(), m.Payload, m.ContentType())
		done <- true
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = feed.Publish(ctx, "prices.eu.de", []byte("84.2"), agentbus.ContentType("text/plain"))
	if err != nil {
		fmt.Println(err)
		return
	}
	<-done

	// The policy says who may publish.
	fmt.Println(planner.Publish(ctx, "prices.eu.de", []byte("0.1")))
	// Output:
	// prices.eu.de from feed-1: 84.2 (text/plain)
	// keyring: the policy does not allow it: policy revision 1, line 4, does not let "planner" write to topic/prices
}

// Entries of a ledger go to the broker's disk without a wait for each.
func ExampleBus_PublishAsync() {
	ctx, example := context.Background(), startExample()
	defer example.stop()
	feed := example.connect("feed-1")

	var last *agentbus.Publication
	for i := range 1000 {
		p, err := feed.PublishAsync(ctx, "ledger", fmt.Appendf(nil, "entry %d", i))
		if err != nil {
			fmt.Println(err)
			return
		}
		last = p
	}
	if err := last.Wait(ctx); err != nil { // this one is on disk
		fmt.Println(err)
		return
	}
	if err := feed.Flush(ctx); err != nil { // none of them has failed
		fmt.Println(err)
		return
	}
	fmt.Println(feed.Stats().Published, "acknowledged")
	// Output:
	// 1000 acknowledged
}

// One agent asks another, and nobody else can read question or answer.
func ExampleBus_Request() {
	ctx, example := context.Background(), startExample()
	defer example.stop()
	planner, bob := example.connect("planner"), example.connect("bob")

	_, err := bob.Serve(ctx, func(_ context.Context, r *agentbus.Message) ([]byte, error) {
		if string(r.Payload) == "" {
			return nil, fmt.Errorf("what is the question?")
		}
		return fmt.Appendf(nil, "42, %s", r.Sender.Name()), nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	reply, err := planner.Request(ctx, "bob", []byte("6 × 7?"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s: %s\n", reply.Sender.Name(), reply.Payload)

	_, err = planner.Request(ctx, "bob", nil)
	fmt.Println(err)
	// Output:
	// bob: 42, planner
	// agentbus: bob answered: "what is the question?"
}

// A service is several agents; each request goes to one of them, and the reply says to which.
func ExampleBus_ServeService() {
	ctx, example := context.Background(), startExample()
	defer example.stop()
	planner := example.connect("planner")

	for _, name := range []string{"index-1", "index-2"} {
		index := example.connect(name)
		_, err := index.ServeService(ctx, "lookup", func(_ context.Context, r *agentbus.Message) ([]byte, error) {
			return []byte("found " + string(r.Payload)), nil
		}, agentbus.Concurrency(8))
		if err != nil {
			fmt.Println(err)
			return
		}
	}
	reply, err := planner.RequestService(ctx, "lookup", []byte("sealing wax"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s, by one of two: %v\n", reply.Payload, reply.Sender.Name() == "index-1" || reply.Sender.Name() == "index-2")
	// Output:
	// found sealing wax, by one of two: true
}

// What a bus counts.
func ExampleBus_Stats() {
	ctx, example := context.Background(), startExample()
	defer example.stop()
	planner, feed := example.connect("planner"), example.connect("feed-1")

	sub, err := planner.Subscribe(ctx, "prices", func(_ context.Context, m *agentbus.Message) error {
		if len(m.Payload) == 0 {
			return fmt.Errorf("no price")
		}
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, price := range []string{"84.2", "", "84.3"} {
		if err := feed.Publish(ctx, "prices", []byte(price)); err != nil {
			fmt.Println(err)
			return
		}
	}
	if err := feed.Flush(ctx); err != nil { // the broker has them,
		fmt.Println(err)
		return
	}
	if err := planner.Flush(ctx); err != nil { // has sent them on,
		fmt.Println(err)
		return
	}
	if err := sub.Stop(); err != nil { // and they are handled
		fmt.Println(err)
		return
	}
	s := planner.Stats()
	fmt.Printf("published %d, received %d, handled %d, errors %d, rejected %d\n",
		feed.Stats().Published, s.Received, s.Handled, s.HandlerErrors, len(s.Rejected))
	// Output:
	// published 3, received 3, handled 2, errors 1, rejected 0
}

// exampleWorld is a broker with throw-away certificates. In earnest they come from identity.LoadFiles, the operator's
// key lies with the operator alone, and the broker runs elsewhere.
type exampleWorld struct {
	ca       *devca.CA
	operator *identity.OperatorKey
	node     *broker.Node
	dir      string
	agents   []*agentbus.Bus
}

func startExample() *exampleWorld { return startExampleUnder(testPolicy) }

// startExampleUnder is startExample under another policy.
func startExampleUnder(text string) *exampleWorld {
	ca, err := devca.New("example.org")
	check(err)
	operator, err := identity.GenerateOperatorKey()
	check(err)
	signed, err := policy.Sign([]byte(text), operator, time.Now())
	check(err)
	src, err := ca.BrokerSource("node-1", time.Hour)
	check(err)
	dir, err := os.MkdirTemp("", "sealbus-example")
	check(err)
	node, err := broker.Start(context.Background(), broker.Config{Identity: src, Policy: signed,
		Operators: []identity.Fingerprint{operator.Fingerprint()}, StoreDir: dir, Listen: "127.0.0.1:0",
		Logger: slog.New(slog.DiscardHandler)})
	check(err)
	return &exampleWorld{ca: ca, operator: operator, node: node, dir: dir}
}

func (w *exampleWorld) connect(name string) *agentbus.Bus {
	src, err := w.ca.AgentSource(name, time.Hour)
	check(err)
	ring, err := keyring.Memory(w.operator.Fingerprint())
	check(err)
	bus, err := agentbus.Connect(context.Background(), agentbus.Config{Servers: []string{w.node.URL()}, Identity: src,
		Keyring: ring, Logger: slog.New(slog.DiscardHandler)})
	check(err)
	w.agents = append(w.agents, bus)
	return bus
}

func (w *exampleWorld) stop() {
	for _, bus := range w.agents {
		_ = bus.Close()
	}
	_ = w.node.Shutdown(context.Background())
	_ = os.RemoveAll(w.dir)
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
