-- wrk: a query of its own in every request, all of as many tokens; the figures as a line of JSON. With PAUSE_MS each
-- connection waits before it asks, up to twice as long and at random, so that what is asked is spread evenly whatever
-- is answered.
local asked = 0
local pause = tonumber(os.getenv("PAUSE_MS") or "0")

if pause > 0 then
   math.randomseed(1)
   delay = function() return math.random(0, math.floor(2 * pause)) end
end

request = function()
   asked = asked + 1
   local text = string.format("how do I read a file line by line [%06d]", asked)
   local body = '{"texts": ["' .. text .. '"], "kind": "query"}'
   return wrk.format("POST", "/embed", { ["content-type"] = "application/json" }, body)
end

done = function(summary, latency, requests)
   local failed = summary.errors
   io.write(string.format(
      '{"answered": %d, "refused": %d, "seconds": %f, "lost": %d, "p50_ms": %f, "p95_ms": %f, "p99_ms": %f, "longest_ms": %f}\n',
      summary.requests - failed.status, failed.status, summary.duration / 1e6, failed.connect + failed.read + failed.write + failed.timeout,
      latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000, latency.max / 1000))
end
