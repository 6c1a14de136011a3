package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"
)

// StreamConfig is what an auditor logs of a stream's configuration: what decides what the stream holds. Its text is JSON.
type StreamConfig struct {
	Created     time.Time     `json:"created"`      // when the stream was made
	Subjects    []string      `json:"subjects"`     // that it takes in
	MaxAge      time.Duration `json:"max_age"`      // nanoseconds after which it drops a message; 0: none
	MaxMessages int64         `json:"max_messages"` // -1: any number
	MaxBytes    int64         `json:"max_bytes"`    // -1: any number
	PerSubject  int64         `json:"per_subject"`  // messages of one subject; -1: any number
	Refuses     bool          `json:"refuses"`      // it refuses new messages when it is full, and drops no old ones
	DenyDelete  bool          `json:"deny_delete"`
	DenyPurge   bool          `json:"deny_purge"`
	Rollup      bool          `json:"rollup"`
	Replicas    int           `json:"replicas"`
	Other       string        `json:"other"` // whatever else there is to say
}

// Entry returns the config entry of a stream that holds the messages first to last. The error wraps ErrMalformed where the text
// is longer than an entry's may be.
func (c *StreamConfig) Entry(logged time.Time, first, last uint64) (Entry, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return Entry{}, fmt.Errorf("audit: a stream's configuration: %w", err)
	}
	if len(text) > MaxText {
		return Entry{}, malformed("a configuration of %d bytes, at most %d are allowed", len(text), MaxText)
	}
	return Entry{Kind: KindConfig, Logged: logged, Event: Event{
		First: first, Last: last, Hash: sha256.Sum256(text), Time: c.Created, Text: string(text),
	}}, nil
}

// parseConfig reads the text of a config entry; nil where it is not one of this version.
func parseConfig(text string) *StreamConfig {
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	var c StreamConfig
	if d.Decode(&c) != nil {
		return nil
	}
	return &c
}

// configure takes in a stream's configuration: at first, and when it has changed. That alone is no proof that anything was lost;
// what is lost is found as missing.
func (l *logReader) configure(e *Entry, at Position) {
	v := &l.Completeness
	if sha256.Sum256([]byte(e.Event.Text)) != e.Event.Hash {
		l.Integrity.fail(at, "a configuration that does not have the hash beside it")
	}
	c, first := parseConfig(e.Event.Text), l.created.IsZero()
	switch {
	case first:
	case !e.Event.Time.Equal(l.created):
		v.figure("times that the stream was made anew", 1)
		l.anew(e, at)
	default:
		v.figure("changes of the stream's configuration", 1)
	}
	l.created, l.config = e.Event.Time, c
	if c == nil {
		v.leave(at, "the stream's configuration is written in a way that this program does not know")
		return
	}
	if _, known := l.retain(); !known { // until a policy is
		l.unjudged, l.unjudgedAt = c, at
		return
	}
	l.oddities(c, at)
}

// oddities tells of what a configuration allows to be lost.
func (l *logReader) oddities(c *StreamConfig, at Position) {
	v := &l.Completeness
	retain, known := l.retain()
	for _, odd := range []struct {
		is   bool
		what string
	}{
		{known && c.MaxAge > 0 && c.MaxAge < retain, fmt.Sprintf("the stream drops messages after %v, and the policy has them kept for %v", c.MaxAge, retain)},
		{!c.Refuses && c.MaxMessages > 0, fmt.Sprintf("the stream drops the oldest messages where there are more than %d", c.MaxMessages)},
		{!c.Refuses && c.MaxBytes > 0, fmt.Sprintf("the stream drops the oldest messages where there are more than %d bytes", c.MaxBytes)},
		{!c.DenyDelete, "single messages of the stream may be deleted"},
		{c.Rollup, "a message may have the stream drop others"},
	} {
		if odd.is {
			v.leave(at, "%s", odd.what)
		}
	}
}

// anew takes in that the stream is another than before: nothing that was logged is in it.
func (l *logReader) anew(e *Entry, at Position) {
	if len(l.epochs) < maxEpochs {
		l.epochs = append(l.epochs, epoch{at.Entry, 1, e.Logged})
	}
	if l.before.Kind != KindFrame {
		return
	}
	if !l.keptThroughout(l.before.Logged) {
		l.Completeness.leave(at, "the stream was made anew at %s; the policy had it not kept in between", stamp(e.Event.Time))
	} else {
		l.Completeness.fail(Position{Sequence: l.firstSeq, Entry: at.Entry}, "the stream was made anew at %s: all that it held is gone", stamp(e.Event.Time))
	}
	l.lastSeq, l.before, l.due = 0, Entry{}, e.Event.First
}
