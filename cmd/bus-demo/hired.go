package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/keyring"
)

// hiredVar is set in the environment of a process that is a worker of the story: to the name of its agent.
const hiredVar = "BUS_DEMO_WORKER"

// What a hired process says.
const (
	wordReady = "ready" // tasks can come
	wordBegun = "begun" // the handler was called, for the task whose id follows
)

// hired is a worker in a process of its own, so that it can be killed.
type hired struct {
	name  string
	cmd   *exec.Cmd
	stdin io.Closer
	lines chan string // closed when the process says no more
}

// hire starts a worker as another process of this program, and returns when tasks can come to it.
func hire(ctx context.Context, st *stage, name string) (*hired, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(st.work, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	svid, err := st.ca.Agent(name, certLife)
	if err != nil {
		return nil, err
	}
	cert, key, ca, err := st.ca.WriteFiles(dir, svid)
	if err != nil {
		return nil, err
	}
	h := &hired{name: name, lines: make(chan string, 16)}
	h.cmd = exec.CommandContext(ctx, self, cert, key, ca, st.node.URL(), st.operator.Fingerprint().String())
	h.cmd.Env = append(os.Environ(), hiredVar+"="+name)
	if h.stdin, err = h.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := h.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(h.lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			h.lines <- scan.Text()
		}
	}()
	if err := h.awaitLine(ctx, wordReady); err != nil {
		h.end()
		return nil, err
	}
	return h, nil
}

// awaitLine waits until the process says something.
func (h *hired) awaitLine(ctx context.Context, want string) error {
	select {
	case line, ok := <-h.lines:
		if ok && line == want {
			return nil
		}
		return fmt.Errorf("%s said %q, not %q", h.name, line, want)
	case <-ctx.Done():
		return fmt.Errorf("%s did not say %q: %w", h.name, want, ctx.Err())
	}
}

// kill ends the process as a power cut would, and waits for it.
func (h *hired) kill() error {
	if err := h.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("killing %s: %w", h.name, err)
	}
	if err := h.cmd.Wait(); err == nil {
		return fmt.Errorf("%s had ended by itself", h.name)
	}
	return nil
}

// end is kill for a process that may have been.
func (h *hired) end() {
	if h.cmd.ProcessState == nil {
		_ = h.cmd.Process.Kill() // it has ended, then
		_ = h.cmd.Wait()
	}
}

// hiredMain is the program of a hired process.
func hiredMain(ctx context.Context) int {
	if err := beHired(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bus-demo:", os.Getenv(hiredVar)+":", err)
	}
	return exitFailed
}

// beHired takes tasks, one at a time, and never comes to the end of one. It returns when the process that started it is
// gone, and leaves the connection as it is.
func beHired(ctx context.Context, args []string) error {
	if len(args) != 5 {
		return errors.New("a worker of the story is started by the story")
	}
	src, err := identity.LoadFiles(args[0], args[1], args[2])
	if err != nil {
		return err
	}
	operator, err := identity.ParseFingerprint(args[4])
	if err != nil {
		return err
	}
	ring, err := keyring.Memory(operator)
	if err != nil {
		return err
	}
	bus, err := agentbus.Connect(ctx, agentbus.Config{Servers: []string{args[3]}, Identity: src, Keyring: ring, Brokers: []string{node}})
	if err != nil {
		return err
	}
	_, err = bus.Work(ctx, pages, func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		fmt.Println(wordBegun, t.ID)
		<-ctx.Done()
		return nil, ctx.Err()
	}, agentbus.Concurrency(1))
	if err != nil {
		return err
	}
	fmt.Println(wordReady)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
