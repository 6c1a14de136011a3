package broker_test

import (
	"slices"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/sealbus/sealbus/broker"
)

// TestImports holds the whole of what AGENTS sees of STORE. An import that comes
// to this list needs a thought, and a line in the tests of attacks: an answer
// from STORE can be sent to it by anybody.
func TestImports(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.start(b.config(rulesText(1) + "queues: {q: {enqueue: [alice], work: [bob]}}\n"))
	account := func(name string) *server.AccountInfo {
		z, err := n.Server().Accountz(&server.AccountzOptions{Account: name})
		ok(t, err)
		return z.Account
	}

	var got []string
	for _, i := range account(broker.AccountAgents).Imports {
		got = append(got, i.Account+" "+i.Type.String()+" "+string(i.Subject)+" "+string(i.LocalSubject))
	}
	slices.Sort(got)
	want := []string{
		"STORE service $JS.API.DIRECT.GET.KV_SB_CARDS.$KV.SB_CARDS.> $JS.API.DIRECT.GET.KV_SB_CARDS.$KV.SB_CARDS.>",
		"STORE service $JS.API.DIRECT.GET.KV_SB_KEYS $JS.API.DIRECT.GET.KV_SB_KEYS",
		"STORE service $JS.API.DIRECT.GET.KV_SB_POLICY.$KV.SB_POLICY.> $JS.API.DIRECT.GET.KV_SB_POLICY.$KV.SB_POLICY.>",
		"STORE service $KV.SB_CARDS.> $KV.SB_CARDS.>",
		"STORE service $KV.SB_KEYS.> $KV.SB_KEYS.>",
		"STORE service $JS.ACK.SB_TASK_q.*.*.*.*.*.* $JS.ACK.SB_TASK_q.*.*.*.*.*.*",
		"STORE service $JS.API.CONSUMER.MSG.NEXT.SB_TASK_q.* $JS.API.CONSUMER.MSG.NEXT.SB_TASK_q.*",
		"STORE service $JS.API.DIRECT.GET.SB_CONTROL_q $JS.API.DIRECT.GET.SB_CONTROL_q",
		"STORE service $JS.API.DIRECT.GET.SB_CONTROL_q.sb.control.q.*.> $JS.API.DIRECT.GET.SB_CONTROL_q.sb.control.q.*.>",
		"STORE service $JS.API.DIRECT.GET.SB_DEAD_q $JS.API.DIRECT.GET.SB_DEAD_q",
		"STORE service $JS.API.DIRECT.GET.SB_DEAD_q.sb.dead.q.* $JS.API.DIRECT.GET.SB_DEAD_q.sb.dead.q.*",
		"STORE service $JS.API.DIRECT.GET.SB_TASK_q $JS.API.DIRECT.GET.SB_TASK_q",
		"STORE service $JS.API.DIRECT.GET.SB_TOPIC_prices $JS.API.DIRECT.GET.SB_TOPIC_prices",
		"STORE service $JS.API.DIRECT.GET.SB_TOPIC_secret $JS.API.DIRECT.GET.SB_TOPIC_secret",
		"STORE service *.session.q *.session.q",
		"STORE service $JS.API.DIRECT.GET.SB_RESULT_q $JS.API.DIRECT.GET.SB_RESULT_q",
		"STORE service $JS.API.DIRECT.GET.SB_RESULT_q.sb.result.q.* $JS.API.DIRECT.GET.SB_RESULT_q.sb.result.q.*",
		"STORE service sb.control.q.*.> sb.control.q.*.>",
		"STORE service sb.dead.q.* sb.dead.q.*",
		"STORE service sb.delay.q.*.* sb.delay.q.*.*",
		"STORE service sb.queue.q.*.* sb.queue.q.*.*",
		"STORE service sb.recur.q.* sb.recur.q.*",
		"STORE service sb.recur.q.*.* sb.recur.q.*.*",
		"STORE service sb.result.q.* sb.result.q.*",
		"STORE service sb.slot.q.* sb.slot.q.*",
		"STORE service sb.spread.q.* sb.spread.q.*",
		"STORE service sb.task.q.* sb.task.q.*",
		"STORE service sb.unique.q.*.* sb.unique.q.*.*",
		"STORE service $JS.API.DIRECT.GET.SB_TASK_q.sb.unique.q.*.* $JS.API.DIRECT.GET.SB_TASK_q.sb.unique.q.*.*",
		"STORE service *.topic.prices *.topic.prices",
		"STORE service *.topic.secret *.topic.secret",
		"STORE service sb.nowhere $JS.API.INFO",
		"STORE service sb.topic.prices.> sb.topic.prices.>",
		"STORE service sb.topic.secret.> sb.topic.secret.>",
		"STORE stream sb.store.keys.> sb.store.keys.>",
		"STORE stream sb.store.policy.> sb.store.policy.>",
		// Every account has these. They answer, and change nothing.
		"SYS service $SYS.REQ.ACCOUNT.AGENTS.CONNZ $SYS.REQ.ACCOUNT.PING.CONNZ",
		"SYS service $SYS.REQ.ACCOUNT.AGENTS.CONNZ $SYS.REQ.SERVER.PING.CONNZ",
		"SYS service $SYS.REQ.ACCOUNT.AGENTS.STATZ $SYS.REQ.ACCOUNT.PING.STATZ",
		"SYS service $SYS.REQ.USER.AGENTS.INFO $SYS.REQ.USER.INFO",
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("AGENTS imports\n%q\nwant\n%q", got, want)
	}

	services := 0
	for _, e := range account(broker.AccountStore).Exports {
		if e.Type.String() == "service" {
			services++
		}
		if !slices.Equal(e.ApprovedAccounts, []string{broker.AccountAgents}) {
			t.Errorf("STORE exports %s to %v", e.Subject, e.ApprovedAccounts)
		}
	}
	if services != 1 {
		t.Errorf("STORE exports %d services; with more than one, an answer may leave AGENTS again", services)
	}
	if n := len(account(broker.AccountAgents).Exports); n != 0 {
		t.Errorf("AGENTS exports %d subjects", n)
	}
}
