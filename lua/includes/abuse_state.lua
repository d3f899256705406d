-- What scripts that change an abuse state share: a state of nothing, whether one scope covers another, adding a ban, writing
-- JSON. Included where a script says so, so that all write the same bytes. No text may hold a quote, a backslash or a control
-- character: it is written into JSON as it is.

local function read_state(raw)
  local state = raw and cjson.decode(raw) or {
    score = 0, score_at_ms = 0, level = 0, offences = 0, human_at_ms = 0, factor = 1000, factor_until_ms = 0,
    factor_verdict = '', warn_until_ms = 0, warn_rule = '', warn_verdict = '', bans = {},
  }
  state.half_life_ms = state.half_life_ms or 0
  return state
end

local function split_scope(text)
  local scope = {}
  for glob in text:gmatch('%S+') do
    scope[#scope + 1] = glob
  end
  return scope
end

-- Whether a ban of one scope is one of the other too: the same globs, or all actions.
local function covers(wide, narrow)
  local has = {}
  for _, glob in ipairs(wide) do
    if glob == '*' then
      return true
    end
    has[glob] = true
  end
  for _, glob in ipairs(narrow) do
    if not has[glob] then
      return false
    end
  end
  return true
end

-- The bans with one more; those that are over at its beginning, or that it covers and outlasts, go. Latest end first.
local function add_ban(bans, ban, at_ms)
  local kept = { ban }
  for _, other in ipairs(bans) do
    if other.until_ms > at_ms and (other.until_ms > ban.until_ms or not covers(ban.scope, other.scope)) then
      kept[#kept + 1] = other
    end
  end
  table.sort(kept, function(one, other)
    if one.until_ms ~= other.until_ms then
      return one.until_ms > other.until_ms
    end
    return one.verdict_id < other.verdict_id
  end)
  return kept
end

-- topics.events.AbuseState, in the order of its fields.
local function write_state(state)
  local bans = {}
  for i, ban in ipairs(state.bans) do
    bans[i] = string.format('{"until_ms":%.0f,"level":%.0f,"rule":"%s","verdict_id":"%s","scope":["%s"]}',
      ban.until_ms, ban.level, ban.rule, ban.verdict_id, table.concat(ban.scope, '","'))
  end
  return string.format('{"v":1,"rev":%.0f,"score":%.0f,"score_at_ms":%.0f,"half_life_ms":%.0f,"level":%.0f,"offences":%.0f,'
    .. '"human_at_ms":%.0f,"factor":%.0f,"factor_until_ms":%.0f,"factor_verdict":"%s","warn_until_ms":%.0f,"warn_rule":"%s",'
    .. '"warn_verdict":"%s","bans":[%s]}',
    state.rev, state.score, state.score_at_ms, state.half_life_ms, state.level, state.offences, state.human_at_ms,
    state.factor, state.factor_until_ms, state.factor_verdict, state.warn_until_ms, state.warn_rule, state.warn_verdict,
    table.concat(bans, ','))
end

-- Write a state, and tell everybody.
local function put_state(key, subject, state, expires_at_ms, channel)
  local text = write_state(state)
  redis.call('SET', key, text, 'PXAT', string.format('%.0f', expires_at_ms))
  redis.call('PUBLISH', channel, '{"subject":"' .. subject .. '","state":' .. text .. '}')
  return text
end
