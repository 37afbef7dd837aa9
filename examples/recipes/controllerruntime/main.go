//go:build !race

// Command controllerruntime adds a Runner to a manager of controller-runtime, which a Kubernetes operator has. The
// program has the signals. With -race it is left out: a cluster's libraries take a minute to compile, and would have to be
// compiled twice.
//
//	go run ./controllerruntime [-api https://..] [-zmq tcp://*:5555]
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

const grace = 20 * time.Second

var (
	api      = flag.String("api", "https://127.0.0.1:6443", "the cluster; an operator takes ctrl.GetConfigOrDie instead")
	endpoint = flag.String("zmq", "tcp://*:5555", "where requests come in")
)

func main() {
	flag.Parse()
	ctrl.SetLogger(logr.FromSlogHandler(slog.Default().Handler()))
	if err := serve(&rest.Config{Host: *api}); err != nil {
		slog.Error("controllerruntime", "error", err)
		os.Exit(1)
	}
}

func serve(cluster *rest.Config) error {
	// Longer than the grace; controller-runtime's own default is 30 s.
	patience := grace + 5*time.Second
	mgr, err := ctrl.NewManager(cluster, ctrl.Options{
		GracefulShutdownTimeout: &patience,
		Metrics:                 server.Options{BindAddress: "0"},
	})
	if err != nil {
		return err
	}
	runner, err := zmqgrace.New(zmqgrace.WithSignals(), zmqgrace.WithGrace(grace))
	if err != nil {
		return err
	}
	rep, err := runner.NewSocket(zmq4.REP)
	if err != nil {
		return err
	}
	if err := rep.Bind(*endpoint); err != nil {
		return err
	}
	fmt.Println("listening on", rep.Endpoint())

	var ended error // the manager only logs what Run returns once it has been told to end
	err = mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		ended = runner.Run(ctx, answer)
		return ended
	}))
	if err != nil {
		return err
	}
	// Not ctrl.SetupSignalHandler, which ends the process on a second signal, without a report.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-signals
		cancel()
		<-signals // somebody is impatient
		runner.Close()
	}()
	if err = mgr.Start(ctx); err == nil {
		err = ended
	}
	slog.Info("ended", "report", runner.Report())
	return err
}

func answer(ctx context.Context, m *zmqgrace.Message) error { return m.Reply([]byte("OK")) }
