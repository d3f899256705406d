-- set_factor.lua: put the throttle factor of one action in force for a while, unless another detector holds it.
--
-- Atomic, idempotent. Whoever wrote a factor holds it until it has not renewed it for so long that takeover_ms are left of its
-- time: two detectors that throttle one action by mistake do not write in turn.
--
-- KEYS[1]    factors: throttle factors by action.
-- ARGV[1]    action: printable, without spaces.
-- ARGV[2]    factor: per mille, 1 to 1000.
-- ARGV[3]    probes: checks per mille that pass, 0 to 1000; below 1000 the action is open.
-- ARGV[4]    owner: who writes; without spaces.
-- ARGV[5]    ttl_ms: how long the factor holds unless it is renewed.
-- ARGV[6]    takeover_ms: others may write when no more than this is left.
-- ARGV[7]    channel: where a change is published.
-- ARGV[8]    now_ms: time to use instead of the server's, milliseconds since the epoch; empty in production.
--
-- Returns { now_ms, is_ours, factor, probes }: what is in force now.
--
-- Key types: hash, action -> "per_mille until_ms probes owner". A factor that lowers nothing is not stored.

local UNLOWERED = 1000

local call, floor, format, match = redis.call, math.floor, string.format, string.match

local factors_key, action, owner = KEYS[1], ARGV[1], ARGV[4]
local factor, probes, ttl_ms = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[5])
local takeover_ms, channel, now_ms = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])
if not now_ms then
  local time = call('TIME')
  now_ms = tonumber(time[1]) * 1000 + floor(tonumber(time[2]) / 1000)
end

local known_factor, known_probes = UNLOWERED, UNLOWERED
local stored = call('HGET', factors_key, action)
if stored then
  local per_mille, until_ms, share, holder = match(stored, '^(%d+) (%d+) (%d+) (%S+)$')
  local left_ms = until_ms and tonumber(until_ms) - now_ms or 0
  if left_ms > 0 then
    known_factor, known_probes = tonumber(per_mille), tonumber(share)
    if holder ~= owner and left_ms > takeover_ms then
      return { now_ms, 0, known_factor, known_probes }
    end
  end
end

if factor == UNLOWERED and probes == UNLOWERED then
  call('HDEL', factors_key, action)
else
  call('HSET', factors_key, action, format('%.0f %.0f %.0f %s', factor, now_ms + ttl_ms, probes, owner))
  call('PEXPIRE', factors_key, ttl_ms) -- no factor holds longer than the one that was written last
end
if factor ~= known_factor or probes ~= known_probes then
  call('PUBLISH', channel, format('{"factor_of":%s}', cjson.encode(action)))
end
return { now_ms, 1, factor, probes }
