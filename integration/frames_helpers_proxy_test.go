package integration_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/bustest"
)

// liar is a broker that delivers what it likes where it likes: it stands, with a broker's certificate,
// between one agent and the honest node, and changes what the node delivers. It does what a raw client
// cannot, however many permissions it has: put a message into a subscription that did not ask for it.
type liar struct {
	url     string
	deliver func(delivery) []delivery

	mu     sync.Mutex
	conns  []net.Conn
	answer func(header, data []byte) (lieHeader, lieData []byte) // what becomes of a message with headers; nil: nothing
	done   sync.WaitGroup
}

// answers has every message with headers changed, from now on.
func (l *liar) answers(f func(header, data []byte) (lieHeader, lieData []byte)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = f
}

// headed is changed for a message with headers.
func (l *liar) headed(args []string, body []byte, line []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := strconv.Atoi(args[len(args)-2])
	if l.answer == nil || err != nil || n > len(body) {
		return fmt.Appendf(line, "%s\r\n", body)
	}
	header, data := l.answer(body[:n], body[n:])
	return fmt.Appendf(nil, "%s %d %d\r\n%s%s\r\n", strings.Join(args[:len(args)-2], " "), len(header), len(header)+len(data), header, data)
}

// delivery is one MSG of the NATS protocol, on its way to the agent.
type delivery struct {
	subject, sid, reply string
	data                []byte
}

// lie starts one. deliver is called for every message without headers, one call at a time.
func lie(t testing.TB, w *bustest.World, agent identity.Source, deliver func(delivery) []delivery) *liar {
	t.Helper()
	broker, err := w.CA.BrokerSource("node-1", time.Hour)
	bustest.Check(t, err)
	down, err := identity.ServerTLS(broker)
	bustest.Check(t, err)
	up, err := identity.ClientTLS(agent)
	bustest.Check(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	bustest.Check(t, err)
	l := &liar{url: "tls://" + listener.Addr().String(), deliver: deliver}
	l.done.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			node, err := net.Dial("tcp", w.Node.Addr().String())
			if err != nil {
				_ = conn.Close()
				continue
			}
			l.join(tls.Server(conn, down), tls.Client(node, up))
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		l.mu.Lock()
		for _, c := range l.conns {
			_ = c.Close()
		}
		l.mu.Unlock()
		l.done.Wait()
	})
	return l
}

func (l *liar) join(agent, node net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, agent, node)
	l.done.Go(func() {
		defer node.Close()
		_, _ = io.Copy(node, agent)
	})
	l.done.Go(func() {
		defer agent.Close()
		_ = l.forward(agent, bufio.NewReader(node))
	})
}

// forward passes the node's protocol on, line by line, but for what deliver makes of its messages.
func (l *liar) forward(agent io.Writer, node *bufio.Reader) error {
	for {
		line, err := node.ReadString('\n')
		if err != nil {
			return err
		}
		out := []byte(line)
		args := strings.Fields(line)
		if len(args) > 0 && (args[0] == "MSG" || args[0] == "HMSG") {
			size, err := strconv.Atoi(args[len(args)-1])
			if err != nil {
				return err
			}
			body := make([]byte, size+2)
			if _, err := io.ReadFull(node, body); err != nil {
				return err
			}
			if args[0] == "MSG" {
				out = l.changed(args, body[:size])
			} else {
				out = l.headed(args, body[:size], out)
			}
		}
		if _, err := agent.Write(out); err != nil {
			return err
		}
	}
}

func (l *liar) changed(args []string, data []byte) (out []byte) {
	d := delivery{subject: args[1], sid: args[2], data: data}
	if len(args) == 5 {
		d.reply = args[3]
	}
	for _, d := range l.deliver(d) {
		out = fmt.Appendf(out, "MSG %s %s", d.subject, d.sid)
		if d.reply != "" {
			out = fmt.Appendf(out, " %s", d.reply)
		}
		out = fmt.Appendf(out, " %d\r\n%s\r\n", len(d.data), d.data)
	}
	return out
}
