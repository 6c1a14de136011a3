package policy_test

import (
	"fmt"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

const prices = `trust_domain: example.org
revision: 1
topics:
  prices: {publish: ["feed-*"], subscribe: [planner, "exec-*"], max_age: 30s}
services:
  lookup: {call: [planner], serve: ["index-*"]}
direct:
  - {from: [planner], to: ["*"]}
revoked: [exec-3]
`

func ExampleParse() {
	p, err := policy.Parse([]byte(prices))
	if err != nil {
		fmt.Println(err)
		return
	}
	topic, err := p.TopicChannel("prices.eu.de")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, agent := range []string{"feed-1", "exec-1", "exec-3"} {
		fmt.Println(agent, "reads:", p.CanRead(topic, agent), "writes:", p.CanWrite(topic, agent))
	}
	// Output:
	// feed-1 reads: false writes: true
	// exec-1 reads: true writes: false
	// exec-3 reads: false writes: false
}

// Every mistake is told with its line and with what to write.
func ExampleErrors() {
	_, err := policy.Parse([]byte(`trust_domain: example.org
revision: 1
topics:
  prices:
    publish: feed-1
    subscribers: [planner]
    max_age: 30
  prices.eu: {publish: [feed-1], subscribe: [planner]}
`))
	fmt.Println(err)
	// Output:
	// policy line 5: publish of topic "prices" is a list: write [feed-1]
	// policy line 6: topic "prices" has no field "subscribers": write "subscribe"
	// policy line 7: max_age of topic "prices" is "30": it has no unit: write 30s, 30m, 30h or 30d
	// policy line 8: topic "prices" already covers "prices.eu", as everything below it: remove this entry, or give it a name of its own, such as prices-eu
}

// An operator signs a policy; agents and brokers believe it because they pinned the operator's key.
func ExampleVerify() {
	key, err := identity.GenerateOperatorKey()
	if err != nil {
		fmt.Println(err)
		return
	}
	signed, err := policy.Sign([]byte(prices), key, time.Now())
	if err != nil {
		fmt.Println(err)
		return
	}
	p, err := policy.Verify(signed, []identity.Fingerprint{key.Fingerprint()})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("revision", p.Revision(), "for", p.TrustDomain().Name())
	fmt.Println("planner may ask bob:", p.MayRequest("planner", "bob"), "- and be asked by bob:", p.MayRequest("bob", "planner"))
	// Output:
	// revision 1 for example.org
	// planner may ask bob: true - and be asked by bob: false
}

func ExamplePolicy_Permissions() {
	p, err := policy.Parse([]byte(prices))
	if err != nil {
		fmt.Println(err)
		return
	}
	perms := p.Permissions("feed-1")
	for _, subject := range perms.Publish {
		fmt.Println("publish  ", subject)
	}
	for _, subject := range perms.Subscribe {
		fmt.Println("subscribe", subject)
	}
	fmt.Println("revoked: ", p.Permissions("exec-3").Empty())
	// Output:
	// publish   $JS.API.DIRECT.GET.KV_SB_CARDS.$KV.SB_CARDS.>
	// publish   $JS.API.DIRECT.GET.KV_SB_KEYS
	// publish   $JS.API.DIRECT.GET.KV_SB_POLICY.$KV.SB_POLICY.current
	// publish   $KV.SB_CARDS.feed-1.*
	// publish   $KV.SB_KEYS.pair.feed-1.planner.j.feed-1.>
	// publish   $KV.SB_KEYS.pair.feed-1.planner.k.feed-1.>
	// publish   $KV.SB_KEYS.pair.feed-1.planner.w.feed-1.>
	// publish   $KV.SB_KEYS.topic.prices.j.feed-1.>
	// publish   $KV.SB_KEYS.topic.prices.k.feed-1.>
	// publish   $KV.SB_KEYS.topic.prices.w.feed-1.>
	// publish   sb.inbox.planner.>
	// publish   sb.topic.prices
	// publish   sb.topic.prices.>
	// subscribe sb.agent.feed-1
	// subscribe sb.inbox.feed-1.>
	// subscribe sb.store.keys.pair.feed-1.planner.>
	// subscribe sb.store.keys.topic.prices.>
	// subscribe sb.store.policy.>
	// revoked:  true
}

func ExampleCheckPattern() {
	fmt.Println(policy.CheckPattern("prices.*.close"))
	fmt.Println(policy.CheckPattern("*.eu"))
	// Output:
	// <nil>
	// policy: not a subject: "*.eu" starts with a wildcard: start with a topic, such as "prices.>"; another topic takes another subscription
}
