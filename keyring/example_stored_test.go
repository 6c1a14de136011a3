package keyring_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// A task is sealed before there is anybody to do it, and kept. A worker that comes later is given its key by the agent that
// sealed it, and opens it; again, too, if it is handed out again.
func ExampleStoredReceiver() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	planner, feed := agents(ctx)
	defer planner.Close(ctx)
	defer feed.Close(ctx)
	jobs := policy.MustParseChannel("queue/jobs")
	sender, err := feed.Sender(ctx, jobs)
	if err != nil {
		log.Fatal(err)
	}
	frame, _, err := sender.Seal(nil, &keyring.Draft{
		Kind:      envelope.KindTask,
		Recipient: "jobs",
		Messages:  []envelope.Message{{Payload: []byte("summarise chapter 3")}},
	})
	if err != nil {
		log.Fatal(err)
	}

	receiver, err := planner.StoredReceiver(jobs)
	if err != nil {
		log.Fatal(err)
	}
	want := &keyring.Want{Kinds: keyring.Kinds(envelope.KindTask), Recipient: "jobs"}
	var m keyring.Opened
	fmt.Println("at first:", keyring.ReasonOf(receiver.Open(frame, want, &m)))
	if err := planner.AwaitStored(ctx, frame); err != nil { // joins, is given the key, fetches the sender's card
		log.Fatal(err)
	}
	for range 2 {
		if err := receiver.Open(frame, want, &m); err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s, from %s\n", m.Messages[0].Payload, m.Sender.Name())
	}
	// Output:
	// at first: no key
	// summarise chapter 3, from feed-1
	// summarise chapter 3, from feed-1
}
