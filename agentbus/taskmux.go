package agentbus

import (
	"context"
	"fmt"
)

// TaskMux chooses a handler by the kind of a task, see Kind. The zero value is ready. Handlers and middleware are
// registered before it is used; its Work method is the TaskHandler to give to Bus.Work.
type TaskMux struct {
	handlers   map[string]TaskHandler
	middleware []func(TaskHandler) TaskHandler
}

// Handle registers the handler for a kind; that for "" gets the tasks that are given none. Registering a kind twice
// panics.
func (x *TaskMux) Handle(kind string, handler TaskHandler) {
	if _, ok := x.handlers[kind]; ok || handler == nil {
		panic(fmt.Sprintf("agentbus: TaskMux.Handle(%q): registered twice, or without a handler", kind))
	}
	if x.handlers == nil {
		x.handlers = make(map[string]TaskHandler)
	}
	x.handlers[kind] = handler
}

// Use has every handler run inside of what the middleware makes of it; the one used first is the outermost.
func (x *TaskMux) Use(middleware ...func(TaskHandler) TaskHandler) {
	x.middleware = append(x.middleware, middleware...)
}

// Work is a TaskHandler. A task of a kind that nobody handles here has failed: another worker may know it.
func (x *TaskMux) Work(ctx context.Context, t *Task) ([]byte, error) {
	handler, ok := x.handlers[t.Kind]
	if !ok {
		handler = unknownKind
	}
	for i := len(x.middleware) - 1; i >= 0; i-- {
		handler = x.middleware[i](handler)
	}
	return handler(ctx, t)
}

func unknownKind(_ context.Context, t *Task) ([]byte, error) {
	return nil, fmt.Errorf("agentbus: no handler for tasks of kind %q", t.Kind)
}
