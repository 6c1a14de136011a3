package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sealbus/sealbus/policy"
)

const claim = "0123456789abcdef0123456789abcdef"

func TestUniqueNames(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{policy.UniqueSubject("q", claim, 3), "sb.unique.q." + claim + ".3"},
		{policy.UniqueSubject("q", "*", 0), "sb.unique.q.*.0"},
		{policy.UniqueRecipient("q", claim, 3), "q." + claim + ".3"},
		{policy.ClaimPattern("q", claim), "sb.unique.q." + claim + ".*"},
		{policy.UniquePattern("q"), "sb.unique.q.*.*"},
	} {
		if c.got != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
}

func TestCutUniqueSubject(t *testing.T) {
	for p := range policy.Priorities {
		queue, hash, priority, ok := policy.CutUniqueSubject(policy.UniqueSubject("q-1", claim, p))
		if queue != "q-1" || hash != claim || priority != p || !ok {
			t.Errorf("%d: %q %q %d %v", p, queue, hash, priority, ok)
		}
	}
	for _, s := range []string{"", "sb.unique", "sb.unique.", "sb.unique.q", "sb.unique.q.", "sb.unique.q." + claim, "sb.unique.q." + claim + ".", "sb.unique.q." + claim + ".4",
		"sb.unique.q." + claim + ".00", "sb.unique.q." + claim + ".0.", "sb.unique.q." + claim + ".0.0", "sb.unique.q." + claim + ".*", "sb.unique.q.*.0", "sb.unique.*." + claim + ".0",
		"sb.unique.Q." + claim + ".0", "sb.unique.." + claim + ".0", "sb.unique.q.." + claim + ".0", "sb.unique.q." + claim[1:] + ".0", "sb.unique.q." + claim + "0.0",
		"sb.unique.q." + strings.ToUpper(claim) + ".0", "sb.unique.q." + claim[1:] + "g.0", "x.unique.q." + claim + ".0", "sb.task.q." + claim + ".0", "sb.unique.q." + claim + ".-1", "sb.unique.q." + claim + ".+"} {
		if queue, hash, priority, ok := policy.CutUniqueSubject(s); ok || queue+hash != "" || priority != 0 {
			t.Errorf("%q is cut into %q, %q and %d", s, queue, hash, priority)
		}
	}
}

// FuzzCutUniqueSubject: what is cut is put together again as it was.
func FuzzCutUniqueSubject(f *testing.F) {
	f.Add(policy.UniqueSubject("q", claim, 2))
	f.Add("sb.unique.q.*.0")
	f.Fuzz(func(t *testing.T, s string) {
		queue, hash, priority, ok := policy.CutUniqueSubject(s)
		if !ok {
			return
		}
		if policy.UniqueSubject(queue, hash, priority) != s || "sb.unique."+policy.UniqueRecipient(queue, hash, priority) != s {
			t.Errorf("%q is cut into %q, %q and %d", s, queue, hash, priority)
		}
	})
}

// TestUniquePermissions: enqueuers claim keys of their queue and read what stands; nobody else does either, and nobody more.
func TestUniquePermissions(t *testing.T) {
	p := mustParse(t, head+"queues: {q: {enqueue: [alice], work: [bob]}, r: {enqueue: [bob], work: [alice]}}\n")
	for _, agent := range []string{"alice", "bob"} {
		own, other := "q", "r"
		if agent == "bob" {
			own, other = "r", "q"
		}
		perms := p.Permissions(agent)
		for subject, want := range map[string]bool{
			policy.UniqueSubject(own, claim, 2):                                           true,
			policy.UniqueSubject(other, claim, 2):                                         false,
			policy.StreamGet(policy.TaskStream(own), policy.ClaimPattern(own, claim)):     true,
			policy.StreamGet(policy.TaskStream(own), policy.ClaimPattern(other, claim)):   false,
			policy.StreamGet(policy.TaskStream(other), policy.ClaimPattern(other, claim)): false,
			policy.StreamGet(policy.TaskStream(own), policy.TaskSubject(own, 2)):          false,
			policy.StreamGet(policy.TaskStream(own), ""):                                  false,
		} {
			if got := slices.ContainsFunc(perms.Publish, func(pattern string) bool { return overlap(pattern, subject) }); got != want {
				t.Errorf("%s publishes to %s: %v, want %v", agent, subject, got, want)
			}
		}
		if slices.ContainsFunc(perms.Subscribe, func(pattern string) bool { return overlap(pattern, "sb.unique.>") }) {
			t.Errorf("%s hears claims: %q", agent, perms.Subscribe)
		}
	}
}
