package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// serverLog hands what the NATS server logs to slog. The server's traces show
// the messages themselves and are never switched on.
type serverLog struct {
	log *slog.Logger

	once  sync.Once
	fatal chan struct{} // closed at the first fatal error
	err   error         // that error; read after fatal is closed
}

func newServerLog(log *slog.Logger) *serverLog {
	return &serverLog{log: log.With("from", "nats-server"), fatal: make(chan struct{})}
}

// debug reports whether the server's debug messages are wanted.
func (l *serverLog) debug() bool { return l.log.Enabled(context.Background(), levelDetail) }

// levelDetail is for the server's own debug messages, several a connection.
const levelDetail = slog.LevelDebug - 4

// Noticef is the server's account of how it starts and stops.
func (l *serverLog) Noticef(format string, v ...any) { l.write(slog.LevelDebug, format, v) }

// Warnf implements server.Logger.
func (l *serverLog) Warnf(format string, v ...any) {
	level := slog.LevelWarn
	// That clients must start with the handshake is as it should be.
	if strings.HasPrefix(format, `Clients that are not using "TLS Handshake First"`) {
		level = slog.LevelDebug
	}
	l.write(level, format, v)
}

// Errorf implements server.Logger.
func (l *serverLog) Errorf(format string, v ...any) {
	level, text := slog.LevelError, fmt.Sprintf(format, v...)
	for _, fault := range clientFaults {
		if strings.Contains(text, fault) {
			level = slog.LevelInfo
			break
		}
	}
	l.write(level, "%s", []any{text})
}

// clientFaults are parts of the errors that any client can cause as often as it
// likes, and that no operator has to act on.
var clientFaults = []string{
	"TLS handshake error",
	"authentication error",
	"Authentication Timeout",
	"User Authentication Expired",
	"Violation",
	"maximum connections exceeded",
	"maximum subscriptions exceeded",
	"maximum payload exceeded",
	"Slow Consumer",
}

// Fatalf notes that the server cannot go on and leaves it to the node to stop
// it. The server's own logger ends the process here. It may be called with the
// server's lock held, so that stopping it from here would deadlock.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.write(slog.LevelError, format, v)
	l.once.Do(func() {
		l.err = fmt.Errorf("%w: %w", ErrServer, &fatalError{text: fmt.Sprintf(format, v...), cause: cause(v)})
		close(l.fatal)
	})
}

// Debugf implements server.Logger.
func (l *serverLog) Debugf(format string, v ...any) { l.write(levelDetail, format, v) }

// Tracef drops the message: it would hold what clients sent.
func (l *serverLog) Tracef(string, ...any) {}

func (l *serverLog) write(level slog.Level, format string, v []any) {
	ctx := context.Background()
	if l.log.Enabled(ctx, level) {
		l.log.Log(ctx, level, fmt.Sprintf(format, v...))
	}
}

// failed returns the fatal error, or nil when there was none.
func (l *serverLog) failed() error {
	select {
	case <-l.fatal:
		return l.err
	default:
		return nil
	}
}

// fatalError is what the server said, with the error that it said it about.
type fatalError struct {
	text  string
	cause error
}

func (e *fatalError) Error() string { return e.text }
func (e *fatalError) Unwrap() error { return e.cause }

// cause returns the errors among what was logged.
func cause(v []any) error {
	var list []error
	for _, x := range v {
		if err, ok := x.(error); ok {
			list = append(list, err)
		}
	}
	return errors.Join(list...)
}
