package agentbus

import (
	"time"

	"github.com/sealbus/sealbus/internal/schedule"
)

// DecodeTemplate and EncodeTemplate expose what is sealed with a recurring task.
func DecodeTemplate(b []byte) (name string, ticks schedule.Schedule, err error) {
	t, err := decodeTemplate(b)
	return t.name, t.schedule, err
}

func EncodeTemplate(name string, ticks schedule.Schedule) ([]byte, error) {
	return (&template{name, ticks}).encode()
}

// TooLate exposes which ticks a worker lets go of that was handed out so often.
func TooLate(s Schedule, delivered int, tick, now time.Time) bool {
	return tooLate(template{"x", s.ticks}, &lease{delivered: delivered}, tick, now)
}
