// Reads a durable consumer with nats.go, for the benchmark program, which starts it and measures its process.
//
// It begins when a line arrives on its standard input, prints a line when it has acked all messages, and ends when its
// standard input does.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"

	"github.com/nats-io/nats.go"
)

type order struct {
	ID       uint64 `json:"id"`
	Customer string `json:"customer"`
	Email    string `json:"email"`
	Article  string `json:"article"`
	Quantity uint32 `json:"quantity"`
	Cents    uint64 `json:"cents"`
	Currency string `json:"currency"`
	Address  string `json:"address"`
	Placed   uint64 `json:"placed"`
}

func main() {
	url, stream, subject, durable := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	messages, err := strconv.Atoi(os.Args[5])
	check(err)
	input := bufio.NewReader(os.Stdin)
	_, err = input.ReadString('\n')
	check(err)
	check(consume(url, stream, subject, durable, messages))
	fmt.Println("acked")
	// An error is the end of the input.
	_, _ = input.ReadString('\n')
}

func consume(url, stream, subject, durable string, messages int) error {
	connection, err := nats.Connect(url)
	if err != nil {
		return err
	}
	jetstream, err := connection.JetStream()
	if err != nil {
		return err
	}
	subscription, err := jetstream.PullSubscribe(subject, durable, nats.Bind(stream, durable))
	if err != nil {
		return err
	}
	for seen := 0; seen < messages; {
		batch, err := subscription.Fetch(1000)
		if err != nil {
			return err
		}
		for _, message := range batch {
			var order order
			if err := json.Unmarshal(message.Data, &order); err != nil {
				return err
			}
			if err := message.Ack(); err != nil {
				return err
			}
		}
		seen += len(batch)
	}
	return connection.Flush()
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
