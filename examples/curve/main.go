// Command curve is a server whose clients must have the right key. The connections are encrypted (CURVE), and libzmq asks
// an ordinary REP socket of the same Runner whom to let in (ZAP): a Runner whose sockets ask where nobody answers does
// not start. The server's secret key is in a file, so that its clients know it again after a restart.
//
//	go run ./examples/curve keyfile endpoint client-public-key...
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

func main() {
	if len(os.Args) < 3 {
		slog.Error("curve: name a file for the secret key, an endpoint, and the public keys of the clients")
		os.Exit(2)
	}
	if err := serve(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		slog.Error("curve", "error", err)
		os.Exit(1)
	}
}

func serve(keyFile, endpoint string, clients []string) error {
	secret, err := secretKey(keyFile)
	if err != nil {
		return err
	}
	public, err := zmq4.AuthCurvePublic(secret)
	if err != nil {
		return err
	}
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	if err := guard(runner, clients); err != nil {
		return err
	}
	front, err := runner.NewSocket(zmq4.ROUTER, zmqgrace.WithName("front"))
	if err != nil {
		return err
	}
	if err := front.Raw().ServerAuthCurve("curve", secret); err != nil { // before Bind
		return err
	}
	if err := front.Bind(endpoint); err != nil {
		return err
	}
	fmt.Println("listening on", front.Endpoint(), "with the public key", public)
	err = runner.Run(context.Background(), func(ctx context.Context, m *zmqgrace.Message) error {
		return m.Reply(m.Frames...)
	})
	slog.Info("ended", "report", runner.Report())
	return err
}

// secretKey reads the key from its file, or makes both.
func secretKey(file string) (string, error) {
	key, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		_, secret, err := zmq4.NewCurveKeypair()
		if err != nil {
			return "", err
		}
		return secret, os.WriteFile(file, []byte(secret), 0o600)
	}
	return string(key), err
}
