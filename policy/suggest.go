package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// nearest returns up to n of the known words that somebody who wrote word may have meant, the likeliest first.
func nearest(word string, known []string, n int) []string {
	type candidate struct {
		word     string
		distance int
	}
	if len(word) > 100 {
		return nil
	}
	var list []candidate
	most := max(2, len(word)/3)
	if len(word) < 5 {
		most = min(1, len(word)-1) // "read" is not "pad"
	}
	for _, k := range known {
		switch {
		case len(word) > 2 && (strings.HasPrefix(word, k) || strings.HasPrefix(k, word)):
			// "publishers" for publish, "sub" for subscribe
			list = append(list, candidate{k, 1})
		case len(k) > len(word)+most || len(word) > len(k)+most:
		default:
			if d := distance(word, k); d <= most {
				list = append(list, candidate{k, d})
			}
		}
	}
	slices.SortFunc(list, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.word, b.word))
	})
	words := make([]string, 0, n)
	for _, c := range list[:min(n, len(list))] {
		words = append(words, c.word)
	}
	return words
}

// distance is the number of bytes to insert, delete or replace, or of neighbours to swap, that turns a into b.
func distance(a, b string) int {
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			replace := row[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			next[j] = min(row[j]+1, next[j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}

// few lists at most n words.
func few(words []string, n int) string {
	if len(words) <= n {
		return strings.Join(words, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(words[:n], ", "), len(words)-n)
}

// legalName returns a legal name that resembles s, or "" when nothing of it can be kept.
func legalName(s string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(s) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && (r == '-' || r == '_'):
			b.WriteRune(r)
		case b.Len() > 0 && strings.ContainsRune(" ./:+", r):
			b.WriteByte('-')
		}
	}
	name := strings.TrimRight(b.String(), "-_")
	name = name[:min(len(name), 63)]
	if !isName(name) {
		return ""
	}
	return name
}
