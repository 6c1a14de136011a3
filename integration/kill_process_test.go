package integration_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/bustest"
)

// killEnv says, in JSON, what a process is to be that a kill test has started from the test's own binary.
const killEnv = "SEALBUS_KILL_PROCESS"

// killSpec is what one process is.
type killSpec struct {
	Role   string // "broker", "worker", "producer", "collector" or "auditor"
	Name   string // in the certificate
	Dir    string // of the world
	Listen string // the broker's address
	Life   int    // how many processes had this name before
}

func (s killSpec) file(name string) string { return filepath.Join(s.Dir, name) }

// killChild is main of such a process.
func killChild(text string) int {
	var s killSpec
	err := json.Unmarshal([]byte(text), &s)
	if err == nil {
		go func() { // no process outlives the test, however that ends
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
		err = map[string]func(killSpec) error{
			"broker": killBroker, "worker": killWorker, "producer": killProducer, "collector": killCollector, "auditor": killAuditor,
		}[s.Role](s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, s.Role, s.Name, err)
		return 1
	}
	return 0
}

// tellTest tells the test something, in one line.
func tellTest(what ...any) { _, _ = fmt.Fprintln(os.Stdout, what...) }

func (s killSpec) source() (*identity.Files, error) {
	base := s.Name
	if s.Role == "broker" {
		base = "broker." + s.Name
	}
	return identity.LoadFiles(s.file(base+".pem"), s.file(base+"-key.pem"), s.file("ca.pem"))
}

func (s killSpec) operator() (identity.Fingerprint, error) {
	raw, err := os.ReadFile(s.file("operator"))
	if err != nil {
		return identity.Fingerprint{}, err
	}
	return identity.ParseFingerprint(string(raw))
}

func (s killSpec) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func killBroker(s killSpec) error {
	src, err := s.source()
	if err != nil {
		return err
	}
	operator, err := s.operator()
	if err != nil {
		return err
	}
	signed, err := os.ReadFile(s.file("policy"))
	if err != nil {
		return err
	}
	tellTest("opening")
	node, err := broker.Start(context.Background(), broker.Config{
		Identity: src, Policy: signed, Operators: []identity.Fingerprint{operator},
		StoreDir: s.file("store"), Listen: s.Listen, AdminClients: true, Logger: s.logger(),
	})
	if err != nil {
		return err
	}
	tellTest("ready", node.Addr().String())
	<-node.Done()
	return node.Err()
}

// connect connects an agent with its state directory, as often as it takes: the broker may be down at this moment.
func (s killSpec) connect() (*agentbus.Bus, error) {
	operator, err := s.operator()
	if err != nil {
		return nil, err
	}
	src, err := s.source()
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(bustest.Timeout); ; {
		ring, err := keyringAt(s, operator)
		if err != nil {
			return nil, err
		}
		b, err := agentbus.Connect(context.Background(), agentbus.Config{
			Servers: []string{s.Listen}, Identity: src, Keyring: ring, Logger: s.logger(),
		})
		if err == nil || time.Now().After(deadline) {
			return b, err
		}
	}
}

// killRecord is one line of a worker's file: which task's handler has begun to run, in which life of the worker and as
// which attempt of the task.
const killRecord = "%08d %04d %04d\n"

// killWorker notes every run of its handler before anything else.
func killWorker(s killSpec) error {
	runs, err := os.OpenFile(s.file("runs-"+s.Name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	b, err := s.connect()
	if err != nil {
		return err
	}
	handler := func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		var n int
		if _, err := fmt.Sscanf(string(t.Payload), killPayload, &n); err != nil {
			return nil, agentbus.Cancel(err)
		}
		if _, err := fmt.Fprintf(runs, killRecord, n, s.Life, t.Attempt); err != nil {
			return nil, err
		}
		tellTest("run", n)
		return fmt.Appendf(killResult(n), "run %s", rand.Text()), nil
	}
	for deadline := time.Now().Add(bustest.Timeout); ; {
		_, err = b.Work(context.Background(), killQueue, handler, agentbus.Concurrency(8))
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			return err
		}
		fmt.Fprintln(os.Stderr, "worker", s.Name, "again:", err)
	}
	tellTest("ready")
	select {} // until it is killed
}

// killedProcess is a process of a kill test, seen from the test.
type killedProcess struct {
	t      testing.TB
	spec   killSpec
	cmd    *exec.Cmd
	ready  chan string   // what follows "ready", once
	opened chan struct{} // closed when it has said "opening"
	gone   chan struct{} // closed when it has ended and all that it said was heard
	killed atomic.Bool
}

// launch starts a process. heard is called for every other line that it says.
func launch(t testing.TB, s killSpec, heard func(line string)) *killedProcess {
	t.Helper()
	text, err := json.Marshal(s)
	bustest.Check(t, err)
	exe, err := os.Executable()
	bustest.Check(t, err)
	log, err := os.OpenFile(s.file("log-"+s.Name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	bustest.Check(t, err)
	defer log.Close()
	p := &killedProcess{t: t, spec: s, cmd: exec.Command(exe), ready: make(chan string, 1), opened: make(chan struct{}), gone: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), killEnv+"="+string(text))
	p.cmd.Stderr = log
	_, err = p.cmd.StdinPipe() // held open: its end is the process's
	bustest.Check(t, err)
	out, err := p.cmd.StdoutPipe()
	bustest.Check(t, err)
	bustest.Check(t, p.cmd.Start())
	t.Cleanup(p.kill)
	go func() {
		defer close(p.gone)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			word, rest, _ := strings.Cut(lines.Text(), " ")
			switch word {
			case "opening":
				close(p.opened)
			case "ready":
				p.ready <- rest
			default:
				heard(lines.Text())
			}
		}
		if err := p.cmd.Wait(); err != nil && !p.killed.Load() {
			fmt.Fprintf(os.Stderr, "%s %s of a kill test has ended by itself: %v\n", s.Role, s.Name, err)
		}
	}()
	return p
}

// kill kills the process with SIGKILL, if it has not ended, and waits until nothing is left of it.
func (p *killedProcess) kill() {
	p.killed.Store(true)
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.gone
}
