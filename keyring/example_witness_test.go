package keyring_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Whoever has a frame, the policy and the card of its sender proves who has sealed it, years later and with no key, to everybody who knows
// the authorities and the operator of then. The same card's key signs the checkpoint of a log.
func ExampleWitness() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	authorities, pin, planner, feed := trustDomain(ctx)
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
	logged := time.Now()
	const origin = "example.org/planner/log"
	signer, err := planner.NoteSigner(origin)
	if err != nil {
		log.Fatal(err)
	}
	checkpoint, err := note.Sign(&note.Note{Text: origin + "\n1\nAAAA\n"}, signer)
	if err != nil {
		log.Fatal(err)
	}

	// What is kept beside the frame: statements as they were signed.
	signed := planner.RawPolicy()
	var cards [][]byte
	for _, r := range []*keyring.Ring{planner, feed} {
		card, err := planner.RawCard(ctx, r.Self(), r.Card())
		if err != nil {
			log.Fatal(err)
		}
		cards = append(cards, card)
	}
	for _, r := range []*keyring.Ring{planner, feed} {
		if err := r.Close(ctx); err != nil {
			log.Fatal(err)
		}
	}

	witness := keyring.NewWitness(planner.Policy().TrustDomain(), authorities, pin)
	then, err := witness.AddPolicy(signed)
	if err != nil {
		log.Fatal(err)
	}
	var by []keyring.CardInfo
	for _, card := range cards {
		info, err := witness.AddCard(card)
		if err != nil {
			log.Fatal(err)
		}
		by = append(by, info)
	}
	want := &keyring.Want{Kinds: keyring.Kinds(envelope.KindTask), Recipient: "jobs"}
	proven, err := witness.Attest(frame, jobs, then, logged, want)
	fmt.Println(proven.Kind, "of", proven.Sender, err)
	_, err = witness.Attest(frame, jobs, then, logged.Add(365*24*time.Hour), want)
	fmt.Println("if it was logged a year later:", keyring.ReasonOf(err))
	verifier, err := witness.NoteVerifier(origin, by[0].Agent, by[0].Card)
	if err != nil {
		log.Fatal(err)
	}
	opened, err := note.Open(checkpoint, note.VerifierList(verifier))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("checkpoint signed by", by[0].Agent.Name(), "for", opened.Sigs[0].Name)
	// Output:
	// task of spiffe://example.org/agent/feed-1 <nil>
	// if it was logged a year later: stale
	// checkpoint signed by planner for example.org/planner/log
}
