package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sealbus/sealbus/audit"
)

// contents is what a file says that it holds. Nothing of it is verified.
type contents struct {
	Log         string           `json:"log"`
	Made        string           `json:"made,omitempty"` // of an export
	Entries     int64            `json:"entries"`
	Kinds       map[string]int64 `json:"kinds"`
	First       string           `json:"first_logged"`
	Last        string           `json:"last_logged"`
	Sequences   [2]uint64        `json:"logged_sequences"`
	Checkpoints map[string]int   `json:"checkpoints"` // of this log, by where they were kept
	Covered     int64            `json:"covered"`
	Statements  map[string]int   `json:"statements"`
	Messages    *messages        `json:"messages,omitempty"`
	List        []listed         `json:"list,omitempty"`
}

// messages are those of the stream that are there.
type messages struct {
	Count     int64     `json:"count"`
	Bytes     int64     `json:"bytes"`
	Sequences [2]uint64 `json:"sequences"`
}

// listed is an entry of the log.
type listed struct {
	Index    int64  `json:"index"`
	Kind     string `json:"kind"`
	Logged   string `json:"logged"`
	Sequence uint64 `json:"sequence,omitempty"`
	Subject  string `json:"subject,omitempty"`
	Sender   string `json:"sender,omitempty"`
	Bytes    uint32 `json:"bytes,omitempty"`
	Outcome  string `json:"refused,omitempty"`
	From     uint64 `json:"from,omitempty"` // of an event: the messages that it is about
	To       uint64 `json:"to,omitempty"`
	Revision uint64 `json:"revision,omitempty"`
	Channel  string `json:"channel,omitempty"`
	Agent    string `json:"agent,omitempty"`
	Text     string `json:"text,omitempty"`
}

// show says what is in an export or a log.
func show(ctx context.Context, o *options, p *page) (int, error) {
	s, err := open(o.file)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	c := &contents{Log: s.Origin().String(), Kinds: make(map[string]int64), Checkpoints: make(map[string]int), Statements: make(map[string]int)}
	if made := s.Made(); !made.IsZero() {
		c.Made = stamp(made)
	}
	if err := c.readLog(s, o.entries); err != nil {
		return 0, err
	}
	if err := c.readBeside(s); err != nil {
		return 0, err
	}
	if err := c.readFrames(ctx, s); err != nil {
		return 0, err
	}
	p.object = c
	c.page(p)
	return exitOK, nil
}

func (c *contents) readLog(s source, list bool) error {
	var e audit.Entry
	var first, last time.Time
	for raw, err := range s.Entries(0) {
		if err != nil {
			return err
		}
		if err := audit.ParseEntry(raw, &e); err != nil {
			return fmt.Errorf("entry %d: %w", c.Entries, err)
		}
		if c.Entries == 0 {
			first = e.Logged
		}
		last = e.Logged
		c.Kinds[e.Kind.String()]++
		if e.Kind == audit.KindFrame {
			widen(&c.Sequences, e.Frame.Sequence)
		}
		if list {
			c.List = append(c.List, newListed(c.Entries, &e))
		}
		c.Entries++
	}
	c.First, c.Last = stamp(first), stamp(last)
	return nil
}

func widen(r *[2]uint64, n uint64) {
	if r[0] == 0 || n < r[0] {
		r[0] = n
	}
	r[1] = max(r[1], n)
}

func newListed(index int64, e *audit.Entry) listed {
	v := &e.Event
	l := listed{Index: index, Kind: e.Kind.String(), Logged: stamp(e.Logged), From: v.First, To: v.Last, Revision: v.Revision, Channel: v.Channel,
		Agent: v.Agent, Text: v.Text}
	if e.Kind == audit.KindFrame {
		f := &e.Frame
		l.Sequence, l.Subject, l.Sender, l.Bytes = f.Sequence, f.Subject, f.Header.Sender, f.Size
		if f.Outcome != 0 {
			l.Outcome = f.Outcome.String()
		}
	}
	return l
}

func (c *contents) readBeside(s source) error {
	for _, place := range s.Places() {
		for raw, err := range place.Checkpoints {
			if err != nil {
				return err
			}
			if k, err := audit.UnverifiedCheckpoint(raw); err == nil && k.Origin == s.Origin() {
				c.Checkpoints[place.Name]++
				c.Covered = max(c.Covered, k.Size)
			}
		}
	}
	for st, err := range s.Statements() {
		if err != nil {
			return err
		}
		c.Statements[st.Kind.String()]++
	}
	return nil
}

func (c *contents) readFrames(ctx context.Context, s source) error {
	frames := s.frames()
	if frames == nil {
		return nil
	}
	c.Messages = &messages{}
	for m, err := range frames.Frames(ctx) {
		if err != nil {
			return err
		}
		c.Messages.Count++
		c.Messages.Bytes += int64(len(m.Data))
		widen(&c.Messages.Sequences, m.Sequence)
	}
	return nil
}

func (c *contents) page(p *page) {
	p.line("log", "%s", c.Log)
	if c.Made != "" {
		p.line("exported", "%s", c.Made)
	}
	p.line("entries", "%d, logged from %s to %s", c.Entries, c.First, c.Last)
	for k := audit.KindFrame; k.String() != audit.Kind(0).String(); k++ {
		if n := c.Kinds[k.String()]; n > 0 {
			p.line("", "%8d %s", n, k)
		}
	}
	if c.Sequences[0] > 0 {
		p.line("logged", "messages %d to %d of the stream", c.Sequences[0], c.Sequences[1])
	}
	p.line("signed", "%s", count(c.Covered, "entry", "entries"))
	for _, place := range slices.Sorted(maps.Keys(c.Checkpoints)) {
		p.line("", "%8d checkpoints in %s", c.Checkpoints[place], quoted(place))
	}
	p.line("statements", "%s, %s, %s", count(c.Statements["policy"], "policy", "policies"), count(c.Statements["card"], "card", "cards"),
		count(c.Statements["key"], "key", "keys"))
	switch m := c.Messages; {
	case m == nil:
		p.line("messages", "none here: this is the log alone")
	case m.Count == 0:
		p.line("messages", "none")
	default:
		p.line("messages", "%s, %d to %d, %d bytes, sealed", count(m.Count, "message", "messages"), m.Sequences[0], m.Sequences[1], m.Bytes)
	}
	for _, l := range c.List {
		fmt.Fprintf(&p.text, "%6d  %s  %-9s %s\n", l.Index, l.Logged, l.Kind, l.about())
	}
	p.text.WriteString("\nNothing of this is verified: that is what bus-audit verify does.\n")
}

// about says in a line what an entry is about.
func (l *listed) about() string {
	switch {
	case l.Kind == audit.KindFrame.String() && l.Outcome != "":
		return fmt.Sprintf("%d on %s, %d bytes, REFUSED: %s", l.Sequence, quoted(l.Subject), l.Bytes, l.Outcome)
	case l.Kind == audit.KindFrame.String():
		return fmt.Sprintf("%d on %s, %d bytes, of %s", l.Sequence, quoted(l.Subject), l.Bytes, quoted(l.Sender))
	}
	var parts []string
	if l.From > 0 {
		parts = append(parts, fmt.Sprintf("messages %d to %d", l.From, l.To))
	}
	if l.Revision > 0 {
		parts = append(parts, fmt.Sprintf("revision %d", l.Revision))
	}
	for _, text := range []string{l.Channel, l.Agent, l.Text} {
		if text != "" {
			parts = append(parts, quoted(text[:min(len(text), maxLine)]))
		}
	}
	return strings.Join(parts, ", ")
}
