package policy

import "strings"

const (
	recurPrefix = "sb.recur."

	// recurring stands in the place of an agent's name under which its tasks are held. No agent has such a name.
	recurring = "_recur"
)

// RecurSubject returns the subject on which an agent asks the broker to hold a recurring task, and to forget it. With an
// empty name it is the one on which it asks what recurring tasks there are.
func RecurSubject(queue, agent, name string) string {
	subject := recurPrefix + queue + "." + agent
	if name == "" {
		return subject
	}
	return subject + "." + name
}

// RecurPattern is the pattern of every [RecurSubject].
const RecurPattern = recurPrefix + ">"

// IsRecurName reports whether s can be the name of a recurring task: one token of letters, digits, - and _, at most
// [MaxDelayID] bytes.
func IsRecurName(s string) bool { return isToken(s) && len(s) <= MaxDelayID }

// RecurringSubject returns the subject under which a recurring task is held in [DelayStream]. It is one for all
// agents, so that those who ask for the same name have one schedule.
func RecurringSubject(queue, name string) string { return HeldSubject(queue, recurring, name) }

// CutRecurSubject takes a [RecurSubject] apart; ok is false for every other subject.
func CutRecurSubject(nats string) (queue, agent, name string, ok bool) {
	rest, ok := strings.CutPrefix(nats, recurPrefix)
	tokens := strings.Split(rest, ".")
	switch {
	case !ok || len(tokens) < 2 || len(tokens) > 3 || !isName(tokens[0]) || !isName(tokens[1]):
		return "", "", "", false
	case len(tokens) == 2:
		return tokens[0], tokens[1], "", true
	case !IsRecurName(tokens[2]):
		return "", "", "", false
	}
	return tokens[0], tokens[1], tokens[2], true
}
