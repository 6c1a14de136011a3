package broker

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/sealbus/sealbus/policy"
)

// Accounts of the node.
const (
	// AccountAgents is the account that agents are in.
	AccountAgents = "AGENTS"
	// AccountStore is the account of streams and buckets. No agent is in it.
	AccountStore = "STORE"
	// AccountSystem is the account of the server's own events.
	AccountSystem = "SYS"
)

// accountsText declares the accounts. JetStream of an account can be switched
// on in a configuration's text and nowhere in the server's Go API before it
// runs.
const accountsText = `
accounts { STORE { jetstream: enabled }, AGENTS {}, SYS {} }
system_account: SYS
`

const (
	// jetStreamInfo is the subject by which the server decides whether an
	// account still needs its import of all of JetStream's API.
	jetStreamInfo = "$JS.API.INFO"

	// nowhere is a subject in STORE that nobody listens on.
	nowhere = "sb.nowhere"
)

// accounts returns the node's accounts and what AGENTS imports from STORE.
//
// Answers of JetStream travel back through an import and are then published in
// AGENTS on whatever reply subject the agent named. Were that a subject which
// AGENTS imports from STORE, such as that of a retained topic, the answer would
// be written to a stream, by an agent that has no right to and with content of
// its choice: it stores "$KV.SB_CARDS.mallory.x" and reads it back with reply
// subject "sb.topic.secret". Three things stand against this.
//
//   - STORE exports everything as one service, to AGENTS alone. The server never
//     takes a message through the same export twice, so an answer ends in
//     AGENTS, also one that is a task which a consumer hands out. What AGENTS
//     can reach is decided by its imports, which are narrow.
//   - All imports through which a stream is written have a wildcard. The server
//     then goes by the subject of the message itself, and that of an answer is a
//     random one of its own. An import without a wildcard brings its subject along.
//   - AGENTS does not import JetStream's API, which the server otherwise gives to
//     every account.
//
// Acknowledgements are imported by the stream's name in its place and an exact
// number of tokens. The server has two forms of them, of different lengths, and
// reads the sequence from the place that the length says: who may publish to
// "$JS.ACK.*.*.SB_TASK_a.>" can settle what SB_TASK_b handed out.
func accounts(p *policy.Policy) ([]*server.Account, error) {
	var parsed server.Options
	if err := parsed.ProcessConfigString(accountsText); err != nil {
		return nil, err
	}
	named := make(map[string]*server.Account)
	for _, a := range parsed.Accounts {
		named[a.Name] = a
	}
	l := link{store: named[AccountStore], agents: named[AccountAgents]}
	l.services(p)
	l.feeds()
	if l.err != nil {
		return nil, fmt.Errorf("connect the accounts: %w", l.err)
	}
	return parsed.Accounts, nil
}

// link connects AGENTS with STORE. It does nothing more after the first error.
type link struct {
	store, agents *server.Account
	err           error
}

// services imports what agents may ask STORE for. The kind of answer is noted
// with each import as it is made, so imports for single answers come first and
// the export, which has to stay one, is then changed for the rest.
func (l *link) services(p *policy.Policy) {
	l.export(server.Singleton)
	for _, subject := range singles(p) {
		l.service(subject, subject)
	}
	l.service(jetStreamInfo, nowhere)
	l.export(server.Streamed)
	for _, subject := range streamed(p) {
		l.service(subject, subject)
	}
	if l.err == nil {
		l.err = l.store.SetServiceExportResponseThreshold(everything, responseWait)
	}
}

// everything is the subject of the one service that STORE exports.
const everything = ">"

// singles returns the subjects of STORE that answer an agent once.
func singles(p *policy.Policy) []string {
	list := []string{
		policy.DirectGet(policy.BucketPolicy, ">"),
		policy.DirectGet(policy.BucketCards, ">"),
		policy.BucketSubject(policy.BucketCards, ">"),
		policy.BucketSubject(policy.BucketKeys, ">"),
	}
	for _, topic := range retained(p) {
		subject := policy.TopicSubject(topic.name)
		list = append(list, wild(subject), subject+".>")
	}
	audited := audited(p)
	for _, stream := range audited {
		list = append(list, policy.StreamInfo(stream))
	}
	if len(audited) > 0 {
		list = append(list, policy.AuditPattern, policy.StreamGet(policy.AuditStream, policy.AuditPattern))
	}
	for _, q := range queues(p) {
		list = append(list,
			policy.TaskPattern(q.name),
			policy.SpreadPattern(q.name),
			policy.UniquePattern(q.name),
			wild(policy.SessionSubject(q.name)),
			policy.StreamGet(policy.TaskStream(q.name), policy.UniquePattern(q.name)),
			policy.ResultSubject(q.name, "*"),
			policy.DeadSubject(q.name, "*"),
			policy.ControlSubject(q.name, "*", ">"),
			policy.SlotSubject(q.name, "*"),
			policy.DelaySubject(q.name, "*", "*"),
			policy.AskSubject(q.name, "*", "*"),
			policy.RecurSubject(q.name, "*", ""),
			policy.RecurSubject(q.name, "*", "*"),
			policy.StreamGet(policy.ResultStream(q.name), policy.ResultSubject(q.name, "*")),
			policy.StreamGet(policy.DeadStream(q.name), policy.DeadSubject(q.name, "*")),
			policy.StreamGet(policy.ControlStream(q.name), policy.ControlSubject(q.name, "*", ">")),
			policy.AckPattern(q.name),
		)
	}
	return list
}

// streamed returns the subjects of STORE that answer an agent more than once. A
// batch read is answered by one message an entry, until an empty one; a request
// for tasks by each task.
func streamed(p *policy.Policy) []string {
	list := []string{policy.DirectGet(policy.BucketKeys, "")}
	for _, topic := range retained(p) {
		list = append(list, policy.StreamGet(policy.TopicStream(topic.name), ""))
	}
	if len(audited(p)) > 0 {
		list = append(list, policy.StreamGet(policy.AuditStream, ""), policy.DirectGet(policy.BucketPolicy, ""))
	}
	for _, q := range queues(p) {
		list = append(list,
			policy.StreamGet(policy.TaskStream(q.name), ""),
			policy.StreamGet(policy.ResultStream(q.name), ""),
			policy.StreamGet(policy.DeadStream(q.name), ""),
			policy.StreamGet(policy.ControlStream(q.name), ""),
			policy.PullPattern(q.name),
		)
	}
	return list
}

// wild returns a pattern with a wildcard for one subject: "*.topic.prices" for
// "sb.topic.prices". No agent may publish anything else that matches it.
func wild(subject string) string {
	_, rest, _ := strings.Cut(subject, ".")
	return "*." + rest
}

// feeds imports the live updates of buckets. Streams publish them once they
// have stored an entry; an agent's own message, coming through a service, would
// not be passed on to a subscription in its account.
func (l *link) feeds() {
	for _, subject := range []string{policy.FeedPolicy, policy.FeedAllKeys} {
		if l.err == nil {
			l.err = l.store.AddStreamExport(subject, []*server.Account{l.agents})
		}
		if l.err == nil {
			l.err = l.agents.AddMappedStreamImport(l.store, subject, subject)
		}
	}
}

func (l *link) export(answers server.ServiceRespType) {
	if l.err == nil {
		l.err = l.store.AddServiceExportWithResponse(everything, answers, []*server.Account{l.agents})
	}
}

func (l *link) service(from, to string) {
	if l.err == nil {
		l.err = l.agents.AddServiceImport(l.store, from, to)
	}
}
