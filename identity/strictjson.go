package identity

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4/json"
)

// parseObject parses one JSON object with nothing around it. go-jose's decoder
// refuses a name that an object has twice, at every depth, which the standard
// one does not; the standard one bounds the depth.
func parseObject(data []byte) (map[string]any, error) {
	switch {
	case len(data) == 0 || data[0] != '{' || data[len(data)-1] != '}':
		return nil, errors.New("not a JSON object and nothing else")
	case !utf8.Valid(data):
		return nil, errors.New("not UTF-8")
	case !stdjson.Valid(data):
		return nil, errors.New("not one valid JSON object")
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.SetNumberType(json.UnmarshalJSONNumber)
	var tree map[string]any
	if err := decoder.Decode(&tree); err != nil {
		return nil, err
	}
	return tree, nil
}

// decodeStrict decodes an object, of which tree is the parsed form, into the
// struct that v points to, and checks that the struct encodes to the same
// object again. That covers what the standard decoder lets pass: names in
// another case, null, missing names, arrays that are too long, base64 with line
// ends, and text forms that are not canonical. On error the struct is zero.
func decodeStrict(data []byte, tree map[string]any, v any) (err error) {
	target := reflect.ValueOf(v)
	if target.Kind() != reflect.Pointer || target.IsNil() || target.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("decode into %T: it must be a pointer to a struct", v)
	}
	target.Elem().SetZero()
	defer func() {
		if err != nil {
			target.Elem().SetZero()
		}
	}()
	decoder := stdjson.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return err
	}
	encoded, err := stdjson.Marshal(v)
	if err != nil {
		return err
	}
	again, err := parseObject(encoded)
	if err != nil {
		return err
	}
	return difference("", tree, again)
}

// difference returns an error that names the first place where got is not
// want, or nil.
func difference(path string, got, want any) error {
	gotObject, ok1 := got.(map[string]any)
	wantObject, ok2 := want.(map[string]any)
	if !ok1 || !ok2 {
		if !reflect.DeepEqual(got, want) {
			return fmt.Errorf("%q: not in its one allowed form", path)
		}
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(gotObject)) {
		if _, ok := wantObject[name]; !ok {
			return fmt.Errorf("%q: unknown name, or an empty value that must be left out", join(path, name))
		}
		if err := difference(join(path, name), gotObject[name], wantObject[name]); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wantObject)) {
		if _, ok := gotObject[name]; !ok {
			return fmt.Errorf("%q: missing", join(path, name))
		}
	}
	return nil
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
