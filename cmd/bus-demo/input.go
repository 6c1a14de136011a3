package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// builtIn is the text that is sent when there is no --input.
//
//go:embed story.txt
var builtIn string

// input is the text that goes through the bus.
type input struct {
	name   string
	bytes  int
	files  int
	cut    bool // there was more than maxInput
	pieces []string
}

func readInput(path string) (*input, error) {
	in := &input{name: "a built-in text", files: 1}
	text, err := builtIn, error(nil)
	if path != "" {
		in.name = path
		text, err = in.read(path)
	}
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(text) == "" {
		return nil, fmt.Errorf("%s has no text in it", path)
	}
	in.bytes, in.pieces = len(text), pieces(text)
	return in, nil
}

func (in *input) read(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("%s does not exist", path)
	case err != nil:
		return "", err
	case info.IsDir():
		return in.readDir(path)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is neither a file nor a directory", path)
	}
	data, err := in.readFile(path, maxInput)
	if err != nil {
		return "", err
	}
	return asText(path, data)
}

// readFile reads at most limit bytes.
func (in *input) readFile(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil || len(data) <= limit {
		return data, err
	}
	in.cut = true
	data = data[:limit]
	for i := 0; i < utf8.UTFMax && len(data) > 0 && !utf8.Valid(data[max(0, len(data)-utf8.UTFMax):]); i++ {
		data = data[:len(data)-1] // the cut may have gone through a character
	}
	return data, nil
}

// readDir reads the text files below a directory, in the order of their names. What is no text is passed
// over, and so is what is hidden: nobody means the inside of .git.
func (in *input) readDir(dir string) (string, error) {
	var b strings.Builder
	in.files = 0
	entries := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entries++; entries > maxEntries || b.Len() >= maxInput {
			in.cut = true
			return fs.SkipAll
		}
		if path != dir && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		data, err := in.readFile(path, maxInput-b.Len())
		if err != nil {
			return err
		}
		if text, err := asText(path, data); err == nil && strings.TrimSpace(text) != "" {
			in.files++
			b.WriteString(strings.TrimRight(text, "\r\n") + "\n\n")
		}
		return nil
	})
	if err == nil && in.files == 0 {
		err = fmt.Errorf("%s holds no text file", dir)
	}
	return b.String(), err
}

func asText(path string, data []byte) (string, error) {
	if bytes.IndexByte(data, 0) >= 0 || !utf8.Valid(data) {
		return "", fmt.Errorf("%s is no text: it has to be UTF-8 without zero bytes", path)
	}
	return string(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))), nil
}

// pieces cuts a text into messages: its paragraphs, a few together where there are many, and none longer than
// maxPiece.
func pieces(text string) []string {
	all := paragraphs(text)
	least := 0
	if len(all) > maxPieces {
		least = len(text) / maxPieces
	}
	var list []string
	for i, p := range all {
		if n := len(list); i > 0 && len(list[n-1]) < least && len(list[n-1])+len(p)+2 <= maxPiece {
			list[n-1] += "\n\n" + p
			continue
		}
		list = append(list, cut(p)...)
	}
	return list
}

// paragraphs are what blank lines separate.
func paragraphs(text string) (list []string) {
	var lines []string
	end := func() {
		if len(lines) > 0 {
			list = append(list, strings.Join(lines, "\n"))
		}
		lines = nil
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if strings.TrimSpace(line) == "" {
			end()
			continue
		}
		lines = append(lines, line)
	}
	end()
	return list
}

// cut cuts what is longer than maxPiece, at the end of a line or word where there is one.
func cut(p string) (list []string) {
	for len(p) > maxPiece {
		n := maxPiece
		if i := strings.LastIndexAny(p[:n], "\n "); i > n/2 {
			n = i + 1
		}
		for !utf8.RuneStart(p[n]) {
			n--
		}
		list, p = append(list, p[:n]), p[n:]
	}
	return append(list, p)
}
