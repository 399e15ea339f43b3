"""Queries as dashboards of node_exporter's metrics ask them: many kinds of panels, one of each."""

_HOST = 'instance="pi-007:9100"'
_DISKS = 'instance=~"pi-00[0-9]:9100"'

PANELS = {
    "memory used %": "100 * (1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes)",
    "one host's memory": (
        f"node_memory_MemTotal_bytes{{{_HOST}}} - node_memory_MemFree_bytes{{{_HOST}}}"
        f" - node_memory_Buffers_bytes{{{_HOST}}} - node_memory_Cached_bytes{{{_HOST}}}"
    ),
    "one host's load": f"node_load1{{{_HOST}}}",
    "one host's CPU by mode": f"sum by (mode)(irate(node_cpu_seconds_total{{{_HOST}}}[5m]))",
    "disk read rate by device": "rate(node_disk_read_bytes_total[5m])",
    "disk busy, ten hosts": f"rate(node_disk_io_time_seconds_total{{{_DISKS}}}[5m])",
    "disk latency": ("rate(node_disk_read_time_seconds_total[5m]) / rate(node_disk_reads_completed_total[5m]) > 0"),
    "network in bits": 'rate(node_network_receive_bytes_total{device!~"lo|veth.*"}[5m]) * 8',
    "network out, negative": f"-irate(node_network_transmit_bytes_total{{{_HOST}}}[5m])",
    "network errors": "increase(node_network_receive_errs_total[1h])",
    "constant rows": "node_filesystem_size_bytes",
    "filesystems used": (
        '(node_filesystem_size_bytes{fstype!~"tmpfs|ramfs"} - node_filesystem_free_bytes{fstype!~"tmpfs|ramfs"})'
        " / node_filesystem_size_bytes"
    ),
    "filesystem full in 4 h": (
        "predict_linear(node_filesystem_avail_bytes[1h], 4 * 3600) < 0 or node_filesystem_readonly"
    ),
    "all temperatures": "node_hwmon_temp_celsius",
    "temperature change": "delta(node_hwmon_temp_celsius[30m])",
    "temperature deviation": "stddev_over_time(node_hwmon_temp_celsius[15m])",
    "temperature by host": "max by (instance)(node_hwmon_temp_celsius)",
    "collector success": "node_scrape_collector_success",
    "one host's everything": f'{{__name__=~"node_.*",{_HOST}}}',
    "uptime": "time() - node_boot_time_seconds",
    "load per core": 'node_load5 / on (instance) count by (instance)(node_cpu_seconds_total{mode="idle"})',
    "load and memory": (
        "node_load1 > 0.1 and on (instance) node_memory_MemAvailable_bytes > 1e9 unless on (instance) node_load15 > 1"
    ),
    "switches, an hour ago": (
        "rate(node_context_switches_total[5m]) - rate(node_context_switches_total[5m] offset 1h)"
    ),
    "subquery": "max_over_time(rate(node_context_switches_total[5m])[30m:1m])",
    "label_replace": 'label_replace(node_load1, "host", "$1", "instance", "(.*):.*")',
    "sort_desc": f"sort_desc(rate(node_network_transmit_packets_total{{{_HOST}}}[5m]))",
    "changes": "changes(node_load1[30m])",
    "resets": "resets(node_context_switches_total[1h])",
    "absent": 'absent(node_load1{instance="nobody"})',
    "count_values": 'count_values("state", node_scrape_collector_success)',
    "stddev": "stddev by (mode)(rate(node_cpu_seconds_total[5m]))",
    "quantile": "quantile(0.95, node_load1)",
    "bottomk": "bottomk(3, node_memory_MemAvailable_bytes)",
    "quantiles by instance": (
        "histogram_quantile(0.99, sum by (le, instance)(rate(app_request_duration_seconds_bucket[5m])))"
    ),
    "one host's quantile": (
        f"histogram_quantile(0.99, sum by (le)(rate(app_request_duration_seconds_bucket{{{_HOST}}}[5m])))"
    ),
    "request rate": "rate(app_request_duration_seconds_count[1m])",
    "mean duration": ("rate(app_request_duration_seconds_sum[5m]) / rate(app_request_duration_seconds_count[5m])"),
    "all buckets": "rate(app_request_duration_seconds_bucket[5m])",
    "scalar": f"scalar(node_memory_MemTotal_bytes{{{_HOST}}}) / 1024",
    "clock": "time()",
    "deriv": "deriv(node_memory_MemAvailable_bytes[15m])",
    "rounded": "round(node_memory_MemAvailable_bytes / 1024 / 1024, 0.1)",
}
