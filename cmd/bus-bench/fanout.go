package main

import "context"

// fanout is publishing to a topic that many subscribe to, each over a connection of its own. What is counted is
// deliveries: a message to ten subscribers is ten.
func fanout(name, topic string) trial {
	return trial{name: name, rules: func(point) string { return topicRules }, points: bySubscribers, figures: deliveries,
		open: func(ctx context.Context, st *stage, at point) (plain, sealed side, err error) {
			return streams(ctx, st, at.Size, at.Subscribers, []string{"plain"}, []string{topic})
		}}
}

func bySubscribers(p pace) (list []point) {
	for _, size := range p.fanoutSizes {
		for _, n := range p.subscribers {
			list = append(list, point{Size: size, Subscribers: n})
		}
	}
	return list
}
