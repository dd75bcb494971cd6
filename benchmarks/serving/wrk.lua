-- What wrk sends, and what it says in the end: one line of JSON for drive.py.
-- Arguments: a file with the body, a file with "Name: value" lines, and "fresh" for a header that no request repeats.

local before, after
local count = 0

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

local function next_request()
  count = count + 1
  return before .. count .. after
end

function init(args)
  wrk.method = "POST"
  wrk.body = read(args[1])
  wrk.headers["Content-Type"] = "application/json"
  for name, value in read(args[2]):gmatch("([^:\n]+): ([^\n]*)\n") do
    wrk.headers[name] = value
  end
  if args[3] == "fresh" then
    wrk.headers["X-Request-Id"] = "@@"
    local whole = wrk.format()
    local first, last = whole:find("@@", 1, true)
    before, after = whole:sub(1, first - 1), whole:sub(last + 1)
    request = next_request
  end
end

function done(summary, latency)
  local errors = summary.errors
  -- Refusals come sooner than answers. Were all of them the soonest, 99 in 100 answers would be within this quantile;
  -- wherever they are, at most one answer in a hundred lies beyond it. Without refusals it is the 99th percentile.
  local refused = errors.status / math.max(summary.requests, 1)
  local quantile = math.min(100 - (1 - refused), 99.999)
  io.write(string.format(
    'BENCH {"num_answers": %d, "num_refused": %d, "num_failed": %d, "num_late": %d, "seconds": %.6f, ' ..
    '"latency_ms_p50": %.4f, "latency_ms_p99": %.4f, "latency_ms_max": %.4f}\n',
    summary.requests - errors.status, errors.status, errors.connect + errors.read + errors.write, errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(quantile) / 1e3, latency.max / 1e3))
end
