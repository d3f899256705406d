-- reset_buckets.lua: fill buckets of one hash tag by forgetting them, as a person decided.
--
-- Atomic and idempotent: a repeat (same verdict key) is answered with the stored time and fills nothing again.
--
-- KEYS[1]    verdict: when this was done.
-- KEYS[...]  the buckets.
-- ARGV[1]    subject: kind=value, whose remembered refusals end.
-- ARGV[2]    digest: of all that the person asked for.
-- ARGV[3]    keep_ms: how long the answer is kept.
-- ARGV[4]    channel: where the change is published.
--
-- No text may hold a quote, a backslash or a control character: it is written into JSON as it is.
--
-- Fails with REQUEST when another digest is stored under the verdict key.
-- Returns { finding, is_repeat }: the digest and the server's time, JSON; is_repeat is 1 when it was stored before.
--
-- Key types: verdict string, JSON; buckets as in check.lua.

local call, floor, format = redis.call, math.floor, string.format

local verdict_key = KEYS[1]
local subject, digest, keep_ms, channel = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

local stored = call('GET', verdict_key)
if stored then
  if cjson.decode(stored).digest ~= digest then
    return redis.error_reply('REQUEST this request id was used for another change')
  end
  return { stored, 1 }
end
local time = call('TIME')
local now_ms = tonumber(time[1]) * 1000 + floor(tonumber(time[2]) / 1000)
for i = 2, #KEYS do
  call('DEL', KEYS[i])
end
local finding = format('{"digest":"%s","at_ms":%.0f}', digest, now_ms)
call('SET', verdict_key, finding, 'PXAT', format('%.0f', now_ms + keep_ms))
call('PUBLISH', channel, '{"subject":"' .. subject .. '"}')
return { finding, 0 }
