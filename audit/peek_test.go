package audit

import (
	"testing"
	"time"
)

func TestPeek(t *testing.T) {
	at := time.UnixMilli(1_800_000_000_000)
	frame := FrameEntry(&Stored{Sequence: 77, Time: at, Subject: "sb.topic.prices", Data: []byte("junk")}, at, 1)
	still := Entry{Kind: KindStill, Logged: at, Event: Event{First: 3, Last: 9}}
	for _, c := range []struct {
		entry    *Entry
		kind     Kind
		sequence uint64
	}{{&frame, KindFrame, 77}, {&still, KindStill, 0}} {
		raw, err := AppendEntry(nil, c.entry)
		if err != nil {
			t.Fatal(err)
		}
		if kind, sequence := Peek(raw); kind != c.kind || sequence != c.sequence {
			t.Errorf("%s %d, want %s %d", kind, sequence, c.kind, c.sequence)
		}
	}
	for _, raw := range [][]byte{nil, {1, 1}, make([]byte, 30)} {
		if kind, _ := Peek(raw); kind != 0 {
			t.Errorf("%x is %s", raw, kind)
		}
	}
}
