// Command fx has uber-go/fx start and stop a Runner. fx waits for the signals.
//
//	go run ./fx [endpoint]
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
	"go.uber.org/fx"
)

const grace = 20 * time.Second

func main() {
	app := fx.New(
		fx.NopLogger,
		fx.StopTimeout(grace+time.Second), // fx's own default is 15 s, for all hooks together
		fx.Provide(newRunner),
		fx.Invoke(closeOnSecondSignal, serve),
	)
	app.Done() // signals are heard from here on; without this only when all has started
	app.Run()
}

func newRunner() (*zmqgrace.Runner, error) {
	return zmqgrace.New(zmqgrace.WithSignals(), zmqgrace.WithGrace(grace))
}

// closeOnSecondSignal heeds what fx does not: it hears the first signal alone.
func closeOnSecondSignal(runner *zmqgrace.Runner) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals // fx has it too, and stops
		<-signals // somebody is impatient
		runner.Close()
	}()
}

func serve(life fx.Lifecycle, runner *zmqgrace.Runner, app fx.Shutdowner) error {
	endpoint := "tcp://*:5555"
	if len(os.Args) > 1 {
		endpoint = os.Args[1]
	}
	rep, err := runner.NewSocket(zmq4.REP)
	if err != nil {
		return err
	}
	life.Append(fx.Hook{
		OnStart: func(context.Context) error {
			if err := rep.Bind(endpoint); err != nil {
				return err
			}
			fmt.Println("listening on", rep.Endpoint())
			// Not fx's context: that ends when the start is over.
			go run(runner, app)
			return nil
		},
		OnStop: func(ctx context.Context) error {
			err := runner.Shutdown(ctx)
			slog.Info("ended", "report", runner.Report(), "error", err)
			return err // fx exits with 1 then
		},
	})
	return nil
}

// run ends the whole application when the server ends by itself; otherwise that is ending anyway.
func run(runner *zmqgrace.Runner, app fx.Shutdowner) {
	code := 0
	if runner.Run(context.Background(), answer) != nil {
		code = 1
	}
	app.Shutdown(fx.ExitCode(code))
}

func answer(ctx context.Context, m *zmqgrace.Message) error { return m.Reply([]byte("OK")) }
