package main

import (
	"context"
	"fmt"
	"strings"
)

// channels is publishing to many topics in turns, for one subscriber to them all. Every topic has a key, and a session,
// of its own.
func channels(name string, signed bool) trial {
	return trial{name: name, rules: func(at point) string { return channelRules(at.Channels, signed) }, points: byChannels, figures: perSecond,
		open: func(ctx context.Context, st *stage, at point) (plain, sealed side, err error) {
			var plainTopics, topics []string
			for i := range at.Channels {
				plainTopics = append(plainTopics, fmt.Sprintf("plain-%d", i+1))
				topics = append(topics, fmt.Sprintf("topic-%d", i+1))
			}
			return streams(ctx, st, at.Size, 1, plainTopics, topics)
		}}
}

func channelRules(n int, signed bool) string {
	b := new(strings.Builder)
	fmt.Fprintln(b, "topics:")
	for i := range n {
		fmt.Fprintf(b, "  topic-%d: {publish: [writer], subscribe: [reader-1], signed: %v}\n", i+1, signed)
		fmt.Fprintf(b, "  plain-%d: {publish: [plain-writer], subscribe: [plain-reader-1]}\n", i+1)
	}
	return b.String()
}

func byChannels(p pace) (list []point) {
	for _, size := range p.channelSizes {
		for _, n := range p.channels {
			list = append(list, point{Size: size, Channels: n})
		}
	}
	return list
}
