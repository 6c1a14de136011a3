package broker

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

func TestServerLog(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := newServerLog(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if l.debug() {
		t.Error("the server's debug messages are wanted at slog's debug level")
	}
	for _, c := range []struct {
		call func()
		want string // "" for nothing
	}{
		{func() { l.Noticef("starting %s", "it") }, `level=DEBUG msg="starting it" from=nats-server`},
		{func() { l.Warnf("disk %d%%", 90) }, `level=WARN msg="disk 90%"`},
		{func() { l.Warnf(`Clients that are not using "TLS Handshake First" option will fail to connect`) }, "level=DEBUG"},
		{func() { l.Errorf("disk gone") }, `level=ERROR msg="disk gone"`},
		{func() { l.Errorf("%s - TLS handshake error: %v", "1.2.3.4", errors.New("EOF")) }, "level=INFO"},
		{func() { l.Errorf("%s", `cid:1 - Publish Violation - Subject "x"`) }, "level=INFO"},
		{func() { l.Debugf("detail") }, ""},
		{func() { l.Tracef("<<- [PUB secret]") }, ""},
		{func() { l.Noticef("100%") }, "100%"},
	} {
		out.Reset()
		c.call()
		if got := out.String(); !strings.Contains(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("logged %q, want %q", got, c.want)
		}
	}
}

func TestFatalDoesNotExit(t *testing.T) {
	t.Parallel()
	l := newServerLog(slog.New(slog.DiscardHandler))
	if l.failed() != nil {
		t.Fatal("failed before anything happened")
	}
	first := errors.New("no space")
	l.Fatalf("Can't start JetStream: %v", first)
	l.Fatalf("and another")
	err := l.failed()
	if !errors.Is(err, ErrServer) || !errors.Is(err, first) || err.Error() != "broker: NATS server failed: Can't start JetStream: no space" {
		t.Errorf("failed: %v", err)
	}
}
