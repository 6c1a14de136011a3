package audit_test

import (
	"crypto/rand"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/keyring"
)

// A log takes in what an auditor sees, signs what it is, and proves single entries to whoever has the signer's key.
func Example() {
	dir, err := os.MkdirTemp("", "log")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	origin := audit.Origin{
		Auditor: identity.MustParseID("spiffe://example.org/agent/auditor"),
		Log:     ulid.MustParseStrict("01M82T3C6NF9XAJ1X38GD0BNKB"), Stream: "SB_TOPIC_ledger",
	}
	l, err := audit.Open(filepath.Join(dir, "ledger"), origin)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()

	// An auditor attests each message first; this one is no frame.
	m := audit.Stored{Sequence: 1, Time: time.Now(), Subject: "sb.topic.ledger.eu", Data: []byte("no frame")}
	opened := audit.Entry{Kind: audit.KindOpened, Logged: time.Now(), Event: audit.Event{
		First: 1, Agent: origin.Auditor.String(), Card: ulid.MustParseStrict("01M82T3C6NF9XAJ1X38GD0BNKB"),
	}}
	entry := audit.FrameEntry(&m, time.Now(), keyring.Malformed)
	if _, err := l.Append(&opened, &entry); err != nil {
		log.Fatal(err)
	}

	// An auditor signs with its card: Ring.NoteSigner.
	private, public, err := note.GenerateKey(rand.Reader, origin.String())
	if err != nil {
		log.Fatal(err)
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := l.Checkpoint(signer); err != nil {
		log.Fatal(err)
	}

	index, err := l.Find(&m)
	if err != nil {
		log.Fatal(err)
	}
	proof, err := l.Prove(index)
	if err != nil {
		log.Fatal(err)
	}
	text, err := proof.Text()
	if err != nil {
		log.Fatal(err)
	}

	// Somebody else, with the text and the key:
	received, err := audit.ParseProof(text)
	if err != nil {
		log.Fatal(err)
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		log.Fatal(err)
	}
	checkpoint, err := received.Verify(received.Extra, note.VerifierList(verifier))
	if err != nil {
		log.Fatal(err)
	}
	var e audit.Entry
	if err := audit.ParseEntry(received.Extra, &e); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("entry %d of %d: message %d on %s, %s\n", received.Index, checkpoint.Size, e.Frame.Sequence, e.Frame.Subject, e.Frame.Outcome)
	// Output: entry 1 of 2: message 1 on sb.topic.ledger.eu, malformed
}
