package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"unicode/utf8"

	"github.com/sealbus/sealbus/audit"
)

// shown is the JSON of a disclosure.
type shown struct {
	Sender   string    `json:"sender"`
	Channel  string    `json:"channel"`
	To       string    `json:"recipient"`
	ID       string    `json:"id"`
	Sealed   string    `json:"sealed"`
	Stored   string    `json:"stored"`
	Logged   string    `json:"logged"`
	Sequence uint64    `json:"sequence"`
	Subject  string    `json:"subject"`
	Count    int       `json:"messages_sealed"`
	Policy   uint64    `json:"policy_revision"`
	Log      string    `json:"log"`
	Size     int64     `json:"log_size"`
	Index    int64     `json:"log_index"`
	Messages []message `json:"messages"`
}

// message is one that was shown.
type message struct {
	Place   int         `json:"place"` // among those sealed together, from 0
	ID      string      `json:"id"`
	Headers [][2]string `json:"headers"`
	Payload []byte      `json:"payload"` // base64
}

// disclosed verifies a disclosure and prints what it shows.
func disclosed(_ context.Context, o *options, p *page) (int, error) {
	t, err := o.trust()
	if err != nil {
		return 0, err
	}
	raw, err := readFile(o.file, audit.MaxDisclosure)
	if err != nil {
		return 0, err
	}
	d, err := audit.VerifyDisclosure(raw, t)
	if err != nil {
		return 0, err
	}
	out := &shown{Sender: d.Sender.String(), Channel: d.Channel.String(), To: d.Recipient, ID: d.ID.String(), Sealed: stamp(d.Sealed), Stored: stamp(d.Stored),
		Logged: stamp(d.Logged), Sequence: d.Sequence, Subject: d.Subject, Count: d.Count, Policy: d.Revision, Log: d.Log.Origin.String(), Size: d.Log.Size, Index: d.Index}
	for i := range d.Messages {
		m := &d.Messages[i]
		one := message{Place: m.Index, ID: m.ID.String(), Headers: [][2]string{}, Payload: m.Payload}
		for _, h := range m.Headers {
			one.Headers = append(one.Headers, [2]string{string(h.Key), string(h.Value)})
		}
		out.Messages = append(out.Messages, one)
	}
	p.object = out
	out.page(p)
	return exitOK, nil
}

func (s *shown) page(p *page) {
	p.line("sender", "%s", s.Sender)
	p.line("to", "%s, %s", s.Channel, quoted(s.To))
	p.line("sealed", "%s, by the sender's clock", s.Sealed)
	p.line("stored", "%s, by the broker's, as message %d on %s", s.Stored, s.Sequence, quoted(s.Subject))
	p.line("logged", "%s, by the auditor's, as entry %d of %d", s.Logged, s.Index, s.Size)
	p.line("log", "%s", s.Log)
	p.line("policy", "revision %d let it be sent", s.Policy)
	p.line("shown", "%d of %s", len(s.Messages), count(s.Count, "message that was sealed", "messages that were sealed together"))
	for _, m := range s.Messages {
		fmt.Fprintf(&p.text, "\nmessage %d, %s\n", m.Place, m.ID)
		for _, h := range m.Headers {
			fmt.Fprintf(&p.text, "  %s: %s\n", quoted(h[0]), quoted(h[1]))
		}
		payload(&p.text, m.Payload)
	}
	p.text.WriteString("\nProven: the sender has signed this, and the auditor has logged it. Of other messages this shows nothing.\n")
}

// payload prints a payload, every line with a bar in front: nothing in it can be taken for a line of this program's. What is no
// text is printed in hex.
func payload(w interface{ WriteString(string) (int, error) }, b []byte) {
	cut := ""
	if len(b) > maxShown {
		cut = fmt.Sprintf("  … %d more bytes: --json has all of them\n", len(b)-maxShown)
		for b = b[:maxShown]; len(b) > maxShown-utf8.UTFMax && !utf8.Valid(b); b = b[:len(b)-1] { // the cut may have gone through a character
		}
	}
	if !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0 {
		for line := range bytes.Lines([]byte(hex.Dump(b))) {
			_, _ = w.WriteString("  # " + string(line)) // into memory
		}
		_, _ = w.WriteString(cut)
		return
	}
	for line := range bytes.Lines(b) {
		_, _ = w.WriteString("  | " + string(bytes.TrimSuffix(line, []byte("\n"))) + "\n")
	}
	_, _ = w.WriteString(cut)
}
