# What a device says of itself: the name of a file or command after an @, then its content, each line after a space.
# For any POSIX shell, so Busybox's and Android's too; it only reads. Read by edgekd/devices/fingerprint.py.
LC_ALL=C
unset OMP_NUM_THREADS OMP_THREAD_LIMIT # nproc would give these
export LC_ALL
PATH=$PATH:/usr/sbin:/sbin
show() {
  if [ -f "$1" ] && [ -r "$1" ]; then
    printf '@%s\n' "$1"
    tr '\000' '\n' < "$1" 2>/dev/null | sed 's/^/ /'
    echo
  fi
}
run() {
  if command -v "$1" > /dev/null 2>&1; then
    printf '@%s\n' "$*"
    "$@" 2>/dev/null < /dev/null | sed 's/^/ /'
    echo
  fi
}
run uname -s
run uname -m
run uname -r
run nproc
for file in /proc/cpuinfo /proc/meminfo /etc/os-release /proc/device-tree/model /proc/device-tree/compatible \
  /sys/devices/virtual/dmi/id/product_name \
  /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor \
  /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq \
  /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_min_freq \
  /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq \
  /sys/class/thermal/thermal_zone[0-9]*/type \
  /sys/class/thermal/thermal_zone[0-9]*/temp \
  /sys/class/hwmon/hwmon[0-9]*/name \
  /sys/class/hwmon/hwmon[0-9]*/temp[0-9]*_input \
  /sys/class/hwmon/hwmon[0-9]*/temp[0-9]*_label; do
  show "$file"
done
run getprop ro.soc.manufacturer
run getprop ro.soc.model
run getprop ro.product.model
run getprop ro.build.version.release
run sysctl -n machdep.cpu.brand_string
run sysctl -n hw.memsize
python=${EDGEKD_PYTHON:-python3}
if command -v "$python" > /dev/null 2>&1; then
  echo '@python'
  "$python" -c '
import sys
from importlib import metadata
print("python", sys.version.split()[0])
for one in metadata.distributions():
    print(str(one.metadata["Name"]).lower(), one.version)
' 2>/dev/null < /dev/null | sed 's/^/ /'
fi
echo @end
