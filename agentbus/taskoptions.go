package agentbus

import (
	"errors"
	"fmt"
	"time"
)

// EnqueueOption is an option of one task. ContentType and Header are options of tasks too.
type EnqueueOption interface{ applyEnqueue(*taskDraft) error }

// taskDraft is a task being made.
type taskDraft struct {
	outgoing
	terms
	given  map[string]bool
	unique *uniqueKey // nil: not
}

type enqueueOption func(*taskDraft) error

func (f enqueueOption) applyEnqueue(d *taskDraft) error { return f(d) }

// once refuses an option that is given twice, or that contradicts one that was given.
func (d *taskDraft) once(name string) error {
	if d.given[name] {
		return fmt.Errorf("agentbus: %s is given twice for one task", name)
	}
	if d.given == nil {
		d.given = make(map[string]bool)
	}
	d.given[name] = true
	return nil
}

// Delay has the task begin no earlier than d from now.
func Delay(d time.Duration) EnqueueOption {
	return enqueueOption(func(t *taskDraft) error {
		if d <= 0 || d > maxTaskTime {
			return fmt.Errorf("agentbus: Delay(%v): use more than nothing and up to %v", d, maxTaskTime)
		}
		return t.begin(time.Now().Add(d))
	})
}

// At has the task begin no earlier than at.
func At(at time.Time) EnqueueOption {
	return enqueueOption(func(t *taskDraft) error {
		if time.Until(at) > maxTaskTime {
			return fmt.Errorf("agentbus: At(%v): use up to %v from now", at.Format(time.RFC3339), maxTaskTime)
		}
		return t.begin(at)
	})
}

func (t *taskDraft) begin(at time.Time) error {
	// Never before: to the next millisecond.
	t.notBefore = at.Add(time.Millisecond - 1).Truncate(time.Millisecond)
	return t.once("Delay or At")
}

// Deadline has the task end among the dead when it has not begun by then.
func Deadline(at time.Time) EnqueueOption {
	return enqueueOption(func(t *taskDraft) error {
		if !at.After(time.Now()) {
			return fmt.Errorf("agentbus: Deadline(%v) has passed", at.Format(time.RFC3339))
		}
		t.deadline = at.Truncate(time.Millisecond)
		return t.once("Deadline")
	})
}

// Timeout bounds each attempt: the handler's context ends, and the attempt has failed.
func Timeout(d time.Duration) EnqueueOption {
	return enqueueOption(func(t *taskDraft) error {
		if d < time.Millisecond {
			return fmt.Errorf("agentbus: Timeout(%v): use at least 1ms", d)
		}
		t.timeout = d.Truncate(time.Millisecond)
		return t.once("Timeout")
	})
}

// MaxAttempts is how often the task is tried, DefaultMaxAttempts if it is not given.
func MaxAttempts(n int) EnqueueOption {
	return enqueueOption(func(t *taskDraft) error {
		t.attempts = n
		return t.once("MaxAttempts")
	})
}

// Backoff is how long to wait after a failed attempt: first after the first, twice as long after each further one,
// most at most; half of it is random. The defaults are DefaultBackoff and DefaultMaxBackoff.
func Backoff(first, most time.Duration) EnqueueOption {
	return enqueueOption(func(t *taskDraft) error {
		t.backoff, t.backoffMost = first.Truncate(time.Millisecond), most.Truncate(time.Millisecond)
		return t.once("Backoff")
	})
}

// Priority is 0, the most urgent, to 3. The default is DefaultPriority. More urgent tasks go first more often; none
// waits for ever.
func Priority(n int) EnqueueOption {
	return enqueueOption(func(t *taskDraft) error {
		t.priority = n
		return t.once("Priority")
	})
}

// Kind is what a TaskMux chooses the handler by, up to 64 bytes. It travels sealed.
func Kind(kind string) EnqueueOption {
	return enqueueOption(func(t *taskDraft) error {
		t.kind = kind
		return t.once("Kind")
	})
}

func (f messageOption) applyEnqueue(d *taskDraft) error {
	if err := f(&d.outgoing); err != nil {
		return err
	}
	if !d.expires.IsZero() {
		return errors.New("agentbus: ExpiresIn is for messages: a task has a Deadline")
	}
	return nil
}
