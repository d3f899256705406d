-- poll.lua: tell one enforcer what is in force, and note that it is alive.
--
-- Atomic; may be repeated as often as needed. Asked four times a second by every enforcer, so it answers with little: what has
-- changed is fetched by its number.
--
-- KEYS[1]    policies: the newest registration, and the last document of an admin.
-- KEYS[2]    revision: of the last change of any override.
-- KEYS[3]    factors: throttle factors by action; those that have ended are removed.
-- KEYS[4]    enforcers: processes by the time when they were last seen.
-- ARGV[1]    version: of the policies that the enforcer goes by.
-- ARGV[2]    source: who asks.
-- ARGV[3]    alive_ms: who was not seen for so long is not counted.
-- ARGV[4]    abandoned_ms: when nobody who goes by the newest policies was seen for so long, they are abandoned.
--
-- Returns { now_us, generation, since_us, version, document_generation, is_abandoned, revision, enforcers, action, factor,
-- probes, until_ms, ... }: numbers are 0 and the version is empty where nothing is stored; four values for each factor.
--
-- Key types: policies and factors hashes (a factor as set_factor.lua writes it), revision string, enforcers sorted set.

local call, floor = redis.call, math.floor

local policies_key, revision_key, factors_key, enforcers_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local version, source, alive_ms, abandoned_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local time = call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now_ms = floor(now_us / 1000)

call('ZADD', enforcers_key, now_ms, source)
call('ZREMRANGEBYSCORE', enforcers_key, '-inf', '(' .. string.format('%.0f', now_ms - alive_ms))

local stored = call('HMGET', policies_key, 'generation', 'since_us', 'version', 'document_generation', 'held_ms')
local generation, newest_version, held_ms = tonumber(stored[1]) or 0, stored[3] or '', tonumber(stored[5]) or 0
local is_abandoned = 0
if generation > 0 then
  if newest_version == version then
    call('HSET', policies_key, 'held_ms', string.format('%.0f', now_ms))
  elseif now_ms - held_ms > abandoned_ms then
    is_abandoned = 1
  end
end

local answer = {
  now_us, generation, tonumber(stored[2]) or 0, newest_version, tonumber(stored[4]) or 0, is_abandoned,
  tonumber(call('GET', revision_key) or 0), call('ZCARD', enforcers_key),
}
local factors = call('HGETALL', factors_key)
for i = 1, #factors, 2 do
  local factor, until_ms, probes = string.match(factors[i + 1], '^(%d+) (%d+) (%d+) ')
  if factor and tonumber(until_ms) > now_ms then
    answer[#answer + 1] = factors[i]
    answer[#answer + 1] = tonumber(factor)
    answer[#answer + 1] = tonumber(probes)
    answer[#answer + 1] = tonumber(until_ms)
  else
    call('HDEL', factors_key, factors[i])
  end
end
return answer
