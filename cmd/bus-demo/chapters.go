package main

import (
	"context"
	"errors"
	"fmt"
)

// chapter is a part of the story. To add one, write its run in a file of its own and put it into the list
// below, before the disk: that one stops the broker.
type chapter struct {
	name  string // in the JSON
	title string
	run   func(ctx context.Context, s *scene) error
}

// chapters is the story.
var chapters = []chapter{
	{"people", "Who is here", people},
	{"topic", "A topic: one writes, two read", topic},
	{"questions", "A question to one agent, and a service that two share", questions},
	{"sides", "Side by side: what an agent read, what the broker held", sides},
	{"listen", "The adversary owns the broker, and listens", listen},
	{"tamper", "The adversary changes, moves and repeats", tamper},
	{"forge", "The adversary takes over a reader, and speaks in another's name", forge},
	{"rules", "The adversary makes rules of its own", rules},
	{"door", "Strangers at the door", door},
	{"tasks", "Tasks: one of three workers is killed, one task is dead and revived", tasks},
	{"audit", "An auditor who cannot read, and the adversary's hand in the ledger", auditing},
	{"disk", "The adversary takes the disk", disk},
}

// scene is where a chapter runs. It prints what happens and keeps what the chapter found out: a chapter holds
// when it stated at least one fact, every one of them was so, and it met no error.
type scene struct {
	*stage
	figures map[string]any
	stated  int
	broken  []string
}

// figure notes a number or a text for the JSON.
func (s *scene) figure(name string, value any) { s.figures[name] = value }

// fact states something that is so or is not. It returns is.
func (s *scene) fact(is bool, format string, args ...any) bool {
	text := fmt.Sprintf(format, args...)
	s.stated++
	if !is {
		s.broken = append(s.broken, text)
	}
	s.page.status(is, "ok", "NOT SO", text, "")
	return is
}

// attempt states what came of something that the adversary tried. It held when the attempt failed.
func (s *scene) attempt(held bool, what, outcome string) {
	s.verdict(held, "GOT IN", what, outcome)
}

func (s *scene) verdict(held bool, bad, what, outcome string) {
	s.stated++
	if !held {
		s.broken = append(s.broken, what+": "+outcome)
	}
	s.page.status(held, "refused", bad, what, outcome)
}

// caught states what an auditor said of something that the adversary did. It held when the auditor has named it.
func (s *scene) caught(held bool, what, outcome string) {
	s.stated++
	if !held {
		s.broken = append(s.broken, what+": "+outcome)
	}
	s.page.status(held, "named", "MISSED", what, outcome)
}

// search states how much of what the adversary looked for it found. It held when that is nothing.
func (s *scene) search(found int, what string) {
	s.stated++
	if found > 0 {
		s.broken = append(s.broken, "found "+number(found)+" "+what)
	}
	s.page.status(found == 0, "nothing", "FOUND "+number(found), what, "")
}

// result is what the JSON says of a chapter.
type result struct {
	Name    string         `json:"name"`
	OK      bool           `json:"ok"`
	Figures map[string]any `json:"figures"`
	Error   string         `json:"error,omitempty"`
}

// tellOne runs a chapter.
func (st *stage) tellOne(ctx context.Context, number int, c chapter) result {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	st.page.heading(number, c.title)
	s := &scene{stage: st, figures: make(map[string]any)}
	err := c.run(ctx, s)
	if err == nil && s.stated == 0 {
		err = errors.New("it showed nothing")
	}
	if err == nil && len(s.broken) > 0 {
		err = fmt.Errorf("not so: %s", s.broken[0])
	} else if err != nil {
		st.page.status(false, "", "ERROR", err.Error(), "")
	}
	r := result{Name: c.name, OK: err == nil, Figures: s.figures}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}
