// metrics-server is the one of Kubernetes: processor time and memory of pods, as kubectl top and autoscalers read them.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"sigs.k8s.io/metrics-server/cmd/metrics-server/app"
)

func main() { os.Exit(cli.Run(app.NewMetricsServerCommand(make(chan struct{})))) }
