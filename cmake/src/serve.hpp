// edgekd-bench --serve: the runner on a device. Requests are lines of JSON on stdin, answers lines on stdout: docs/devices.md.
#pragma once

namespace edgekd::bench {

// Answer until stdin ends. The exit code.
int serve();

}  // namespace edgekd::bench
