package agentbus

import (
	"github.com/sealbus/sealbus/audit"
)

// remark has it logged that this agent reads a stream back, where it audits that too. What other agents read back only the
// broker sees.
func (b *Bus) remark(stream string, first, last uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for a := range b.auditors {
		if f, err := a.follower(stream); err == nil {
			f.remark(&audit.Entry{Kind: audit.KindReplayed, Event: audit.Event{First: first, Last: last, Agent: b.self.String(), Text: "read back"}})
		}
	}
}

// remark leaves an entry for the follower to log when it comes to it.
func (f *auditFollower) remark(e *audit.Entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.remarks) < maxAuditRemarks {
		f.remarks = append(f.remarks, e)
	}
}

// remarked logs what was left.
func (f *auditFollower) remarked() error {
	f.mu.Lock()
	list := f.remarks
	f.remarks = nil
	f.mu.Unlock()
	return f.append(list...)
}
