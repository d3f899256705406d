-- restore_state.lua: put back what was held against one subject, as topic subjects tells it.
--
-- Atomic and idempotent: a state that Redis holds is replaced by one of a higher revision alone, so it may be called in any
-- order and as often as needed, also while other scripts change the subject.
--
-- KEYS[1]   abuse: what is held against the subject.
-- ARGV[1]   subject: kind=value.
-- ARGV[2]   state: topics.events.AbuseState, JSON.
-- ARGV[3]   rev: of that state.
-- ARGV[4]   expires_at_ms: when it is forgotten, milliseconds since the epoch; in the future.
-- ARGV[5]   channel: where the state is published.
--
-- Returns 1 when it was put back, 0 when Redis holds this revision or a higher one.
--
-- Key types: string, JSON.

local abuse_key = KEYS[1]
local subject, state, rev, expires_at_ms, channel = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]

local raw = redis.call('GET', abuse_key)
if raw and cjson.decode(raw).rev >= rev then
  return 0
end
redis.call('SET', abuse_key, state, 'PXAT', expires_at_ms)
redis.call('PUBLISH', channel, '{"subject":"' .. subject .. '","state":' .. state .. '}')
return 1
