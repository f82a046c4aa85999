// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"log/slog"

	clog "github.com/containerd/log"
)

// levelTrace is below slog's own levels.
const levelTrace = slog.LevelDebug - 4

// parseLevel returns the level of a --log-level.
func parseLevel(s string) (slog.Level, error) {
	switch s {
	case "trace":
		return levelTrace, nil
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error", "fatal", "panic":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("log level %q is unknown", s)
}

// setLogs returns a logger to w, and makes containerd's packages log in the
// same form. Lines are JSON objects with time, level and msg, as from the incumbent.
func setLogs(w io.Writer, level slog.Level) (*slog.Logger, error) {
	if err := clog.SetFormat(clog.JSONFormat); err != nil {
		return nil, fmt.Errorf("set log format: %w", err)
	}
	if err := clog.SetLevel(levelName(level)); err != nil {
		return nil, fmt.Errorf("set log level: %w", err)
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: replaceAttr})), nil
}

func replaceAttr(groups []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case slog.Level:
		if len(groups) == 0 && a.Key == slog.LevelKey {
			a.Value = slog.StringValue(levelName(v))
		}
	default:
		switch a.Value.Kind() {
		case slog.KindTime:
			a.Value = slog.StringValue(a.Value.Time().Format(clog.RFC3339NanoFixed))
		case slog.KindDuration:
			a.Value = slog.StringValue(a.Value.Duration().String())
		}
	}
	return a
}

func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelDebug:
		return "trace"
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warning"
	}
	return "error"
}
