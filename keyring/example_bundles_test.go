package keyring_test

import (
	"context"
	"fmt"
	"log"
	"sync"
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// A sender that is busy gathers messages into frames and signs many frames at once. Who receives them opens them on all
// cores and accepts them in order.
func ExampleSender_SealBundles() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	planner, feed := agents(ctx)
	defer planner.Close(ctx)
	defer feed.Close(ctx)
	prices := policy.MustParseChannel("topic/prices")
	receiver, err := planner.Receiver(prices)
	if err != nil {
		log.Fatal(err)
	}
	if err := planner.Join(ctx, prices); err != nil {
		log.Fatal(err)
	}
	sender, err := feed.Sender(ctx, prices)
	if err != nil {
		log.Fatal(err)
	}

	committed, err := sender.Committed()
	if err != nil {
		log.Fatal(err)
	}
	var bundles []*keyring.Bundle
	for _, subject := range []string{"prices.de", "prices.fr"} {
		b := &keyring.Bundle{Kind: envelope.KindEvent, Recipient: subject}
		b.Messages.Reset(committed)
		for i := range 3 {
			if err := b.Messages.Add(&envelope.Message{Payload: fmt.Appendf(nil, "%d.17", 40+i)}); err != nil {
				log.Fatal(err)
			}
		}
		bundles = append(bundles, b)
	}
	if err := sender.SealBundles(bundles); err != nil {
		log.Fatal(err)
	}

	if err := planner.Await(ctx, bundles[0].Frame); err != nil { // fetches the sender's card
		log.Fatal(err)
	}
	unsealed, errs := make([]keyring.Unsealed, len(bundles)), make([]error, len(bundles))
	var wg sync.WaitGroup
	for i, b := range bundles {
		wg.Go(func() {
			want := &keyring.Want{Kinds: keyring.Kinds(envelope.KindEvent), Recipient: b.Recipient}
			errs[i] = receiver.Unseal(b.Frame, want, &unsealed[i])
		})
	}
	wg.Wait()
	for i := range unsealed {
		var o keyring.Opened
		if errs[i] == nil {
			errs[i] = receiver.Accept(&unsealed[i], &o)
		}
		if errs[i] != nil {
			log.Fatal(errs[i])
		}
		fmt.Printf("%d: %d messages, the last %s, signed: %v\n", o.Seq, len(o.Messages), o.Messages[2].Payload, o.Signed)
	}
	// Output:
	// 1: 3 messages, the last 42.17, signed: true
	// 2: 3 messages, the last 42.17, signed: true
}
