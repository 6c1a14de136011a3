package broker

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/sealbus/sealbus/identity"
)

// Connection is a client that is connected over the network.
type Connection struct {
	ClientID uint64      // the server's number for the connection
	ID       identity.ID // whom the certificate names
	Account  string      // AGENTS but for an operator's tool
	Remote   string      // address that it comes from
	Expires  time.Time   // when its certificate ends and the connection with it
}

// Connections returns the clients that are connected, in the order in which they
// came. The node's own connections are not among them.
func (n *Node) Connections() []Connection { return n.peers.list(n.server) }

// peers remembers who is behind which connection. The server does not say when
// one ends, so those that have are dropped when there might be many.
type peers struct {
	mu    sync.Mutex
	byID  map[uint64]Connection
	prune int // how many to hold before looking which have ended
}

// firstPrune is the least number of connections at which to look.
const firstPrune = 64

func newPeers() *peers { return &peers{byID: make(map[uint64]Connection), prune: firstPrune} }

func (p *peers) add(s *server.Server, c Connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.byID) >= p.prune {
		p.drop(s)
		p.prune = max(firstPrune, 2*len(p.byID))
	}
	p.byID[c.ClientID] = c
}

func (p *peers) list(s *server.Server) []Connection {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(s)
	list := make([]Connection, 0, len(p.byID))
	for _, c := range p.byID {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Connection) int { return cmp.Compare(a.ClientID, b.ClientID) })
	return list
}

// drop forgets the connections that have ended. The caller holds mu.
func (p *peers) drop(s *server.Server) {
	for id := range p.byID {
		if s.GetClient(id) == nil {
			delete(p.byID, id)
		}
	}
}
