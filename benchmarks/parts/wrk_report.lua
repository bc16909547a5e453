-- One line of JSON instead of wrk's rounded text. Latencies are microseconds.
done = function(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        'RESULT {"requests": %d, "duration_us": %d, "bytes": %d, "p50_us": %d, ' ..
        '"p99_us": %d, "max_us": %d, "bad_statuses": %d, "socket_errors": %d}\n',
        summary.requests, summary.duration, summary.bytes,
        latency:percentile(50), latency:percentile(99), latency.max,
        errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end

-- `-- N`: every request posts N bytes.
init = function(arguments)
    if arguments[1] then
        wrk.method, wrk.body = "POST", string.rep("x", tonumber(arguments[1]))
    end
end
