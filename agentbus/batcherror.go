package agentbus

import (
	"errors"
	"fmt"
)

// failures are what was not stored of a batch of tasks.
type failures struct {
	shared error // of those that stand and fall together
	list   []error
	more   int
}

func (f *failures) all(err error) { f.shared = err }

func (f *failures) one(place int, err error) {
	if len(f.list) == maxBatchErrors {
		f.more++
		return
	}
	f.list = append(f.list, fmt.Errorf("task %d of the batch: %w", place, err))
}

func (f *failures) err() error {
	list := f.list
	if f.shared != nil {
		list = append([]error{f.shared}, list...)
	}
	if f.more > 0 {
		list = append(list, fmt.Errorf("agentbus: and %d more delayed tasks of the batch are not stored", f.more))
	}
	return errors.Join(list...)
}
