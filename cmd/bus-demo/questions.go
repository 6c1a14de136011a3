package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/sealbus/sealbus/agentbus"
)

// counted is the critic's answer.
type counted struct {
	Words    int    `json:"words"`
	Distinct int    `json:"distinct"`
	Most     string `json:"most"` // the most frequent word of five letters or more
	Times    int    `json:"times"`
}

// serve has the critic count words, and the writers pick sentences.
func (st *stage) serve(ctx context.Context) error {
	_, err := st.critic.bus.Serve(ctx, func(_ context.Context, m *agentbus.Message) ([]byte, error) {
		return json.Marshal(countWords(string(m.Payload)))
	})
	if err != nil {
		return err
	}
	for _, w := range st.writers {
		_, err := w.bus.ServeService(ctx, summary, func(_ context.Context, m *agentbus.Message) ([]byte, error) {
			return []byte(longestSentence(string(m.Payload))), nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// questions has the planner ask the critic, and the service of the writers.
func questions(ctx context.Context, s *scene) error {
	s.say("The planner asks the critic to count words, and the service summarise for the longest sentences.")
	if err := s.askCritic(ctx); err != nil {
		return err
	}
	served := make(map[string]int)
	right, asked, longest := 0, 0, ""
	// With few messages all requests may fall to one writer: then the planner goes on asking.
	for i := 0; i < len(s.text.pieces) || len(served) < len(s.writers) && i < 200; i++ {
		piece := s.text.pieces[i%len(s.text.pieces)]
		reply, err := s.planner.bus.RequestService(ctx, summary, []byte(piece))
		if err != nil {
			return err
		}
		asked++
		served[reply.Sender.Name()]++
		sentence := string(reply.Payload)
		if sentence == longestSentence(piece) && strings.Contains(squeeze(piece), sentence) {
			right++
		}
		if len(sentence) > len(longest) {
			longest = sentence
		}
	}
	var shares []string
	for _, name := range slices.Sorted(maps.Keys(served)) {
		shares = append(shares, fmt.Sprintf("%s %d", name, served[name]))
	}
	s.fact(right == asked && len(served) == len(s.writers), "the service answered %s, %s rightly (%s); the longest:",
		plural(asked, "request"), number(right), strings.Join(shares, ", "))
	s.page.under("“%s”", fit(printable(longest), 84))
	s.figure("served_by", served)
	s.figure("service_requests", asked)
	s.figure("service_replies_right", right)
	return nil
}

// askCritic sends the whole text, in as many requests as there are messages.
func (s *scene) askCritic(ctx context.Context) error {
	right, words, top := 0, 0, counted{}
	for _, piece := range s.text.pieces {
		reply, err := s.planner.bus.Request(ctx, s.critic.name, []byte(piece))
		if err != nil {
			return err
		}
		var c counted
		if err := json.Unmarshal(reply.Payload, &c); err != nil {
			return fmt.Errorf("the critic's reply: %w", err)
		}
		if c == countWords(piece) && reply.Sender == s.critic.bus.Self() {
			right++
		}
		if words += c.Words; c.Times > top.Times {
			top = c
		}
	}
	most := ""
	if top.Most != "" {
		most = fmt.Sprintf(", “%s” %s in one message", fit(printable(top.Most), 20), plural(top.Times, "time"))
	}
	s.fact(right == len(s.text.pieces), "the critic answered %s: %s%s", plural(right, "request"), plural(words, "word"), most)
	s.figure("requests", len(s.text.pieces))
	s.figure("replies_right", right)
	s.figure("words", words)
	return nil
}

func countWords(text string) (c counted) {
	seen := make(map[string]int)
	for _, w := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		c.Words++
		seen[w]++
	}
	c.Distinct = len(seen)
	for _, w := range slices.Sorted(maps.Keys(seen)) {
		if seen[w] > c.Times && len(w) >= 5 {
			c.Most, c.Times = w, seen[w]
		}
	}
	return c
}

// longestSentence returns a text's longest sentence, on one line.
func longestSentence(text string) (longest string) {
	text = squeeze(text)
	for len(text) > 0 {
		end := len(text)
		for _, stop := range []string{". ", "! ", "? "} {
			if i := strings.Index(text, stop); i >= 0 && i+1 < end {
				end = i + 1
			}
		}
		if sentence := strings.TrimSpace(text[:end]); len(sentence) > len(longest) {
			longest = sentence
		}
		text = text[end:]
	}
	return longest
}

// squeeze writes a text on one line.
func squeeze(text string) string { return strings.Join(strings.Fields(text), " ") }

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(line)
}
