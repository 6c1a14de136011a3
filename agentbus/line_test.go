package agentbus_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

// handshake is more than an agent says when it makes a connection, in bytes.
const handshake = 16 << 10

// line is the network between an agent and the broker, in a test's hand.
type line struct {
	world *bustest.World
	addr  string
	mute  atomic.Bool   // what the agent says is lost
	deaf  atomic.Bool   // what the broker says is lost
	later atomic.Bool   // mute begins behind the handshake
	lost  atomic.Uint64 // bytes

	mu       sync.Mutex
	listener net.Listener // nil while the line is down
	conns    map[net.Conn]bool
	done     sync.WaitGroup
}

func newLine(t testing.TB, w *bustest.World) *line {
	t.Helper()
	l := &line{world: w, addr: "127.0.0.1:0", conns: make(map[net.Conn]bool)}
	l.up(t)
	w.T.Cleanup(func() { // after those of the agents
		l.down()
		l.done.Wait()
	})
	return l
}

// agent connects an agent over the line.
func (l *line) agent(name string) *agentbus.Bus {
	c := l.world.Config(name)
	c.Servers = []string{l.addr}
	return l.world.Connect(c)
}

// cut breaks the connections. What is on its way is lost. New ones can be made at once.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		_ = c.Close()
	}
}

// down cuts the line and leaves it so: as if no broker were there.
func (l *line) down() {
	l.mu.Lock()
	if l.listener != nil {
		_ = l.listener.Close()
		l.listener = nil
	}
	l.mu.Unlock()
	l.cut()
}

// up ends down.
func (l *line) up(t testing.TB) {
	t.Helper()
	listener, err := net.Listen("tcp", l.addr)
	bustest.Check(t, err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listener, l.addr = listener, listener.Addr().String()
	l.done.Go(func() { l.run(listener) })
}

func (l *line) run(listener net.Listener) {
	for {
		agent, err := listener.Accept()
		if err != nil {
			return
		}
		broker, err := net.Dial("tcp", l.world.Node.Addr().String())
		if err != nil {
			_ = agent.Close()
			continue
		}
		l.mu.Lock()
		up := l.listener == listener
		if up {
			l.conns[agent], l.conns[broker] = true, true
			l.done.Go(func() { l.carry(broker, agent, &l.mute, &l.later) })
			l.done.Go(func() { l.carry(agent, broker, &l.deaf, new(atomic.Bool)) })
		}
		l.mu.Unlock()
		if !up {
			_ = agent.Close()
			_ = broker.Close()
		}
	}
}

func (l *line) carry(to, from net.Conn, swallow, later *atomic.Bool) {
	defer func() {
		_ = to.Close()
		_ = from.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.conns, to)
		delete(l.conns, from)
	}()
	b := make([]byte, 64<<10)
	for total := 0; ; {
		n, err := from.Read(b)
		if total += n; total > handshake && later.Load() {
			swallow.Store(true)
		}
		if swallow.Load() {
			l.lost.Add(uint64(n))
		} else if _, err := to.Write(b[:n]); err != nil {
			return
		}
		if err != nil {
			return
		}
	}
}
