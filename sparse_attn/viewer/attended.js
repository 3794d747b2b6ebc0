// Who a pixel attends to, and how much: the numbers of `Probe`, for any pixel, from what `data.py` packed.
class Attended {
  constructor(data) {
    Object.assign(this, { width: data.width, height: data.height, depth: data.depth, rounds: data.rounds });
    this.tokens = data.width * data.height;
    const Index = data.wide ? Uint32Array : Uint16Array;
    const Whole = data.bits === 8 ? Int8Array : Int16Array;
    const wide = (packed) => this.#tokens(new Whole(Attended.#bytes(packed.values)), packed.scales);
    this.queries = wide(data.queries);
    this.keys = data.keys ? wide(data.keys) : this.#normalized(this.queries, data.smallest);
    this.codes = data.codes ? new Uint8Array(Attended.#bytes(data.codes)) : null;
    // Of each token its region and, round by round, its place in the region's order.
    this.region = new Uint8Array(this.tokens);
    this.places = new Uint32Array(this.rounds * this.tokens);
    this.regions = data.regions.map((packed) => {
      const region = { ...packed };
      for (const name of ["order", "pixels", "lists"]) {
        if (name in packed) region[name] = new Index(Attended.#bytes(packed[name]));
      }
      return region;
    });
    this.regions.forEach((region, number) => this.#settle(region, number));
  }

  // Plain loops: a page may hold a few million numbers, and it opens when all are unpacked.
  static #bytes(text) {
    const letters = atob(text);
    const bytes = new Uint8Array(letters.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
    return bytes.buffer;
  }

  #tokens(whole, packedScales) {
    const scales = new Float32Array(Attended.#bytes(packedScales));
    const values = new Float32Array(whole.length);
    for (let token = 0, at = 0; token < this.tokens; token++) {
      for (let d = 0; d < this.depth; d++, at++) values[at] = whole[at] * scales[token];
    }
    return values;
  }

  #normalized(queries, smallest) {
    if (smallest === null) return queries;
    const keys = new Float32Array(queries.length);
    for (let start = 0; start < keys.length; start += this.depth) {
      let squares = 0;
      for (let at = start; at < start + this.depth; at++) squares += queries[at] ** 2;
      const norm = Math.max(Math.sqrt(squares), smallest);
      for (let at = start; at < start + this.depth; at++) keys[at] = queries[at] / norm;
    }
    return keys;
  }

  #settle(region, number) {
    const n = region.tokens;
    const order = region.order || region.pixels;
    region.firstChunk = this.chunkCount || 0;
    if (region.order) this.chunkCount = region.firstChunk + (region.chunks * order.length) / (n * region.rounds);
    order.forEach((token, place) => {
      this.region[token] = number;
      this.places[(Math.floor(place / n) % region.rounds) * this.tokens + token] = place;
    });
  }

  scores(token) {
    const { depth, keys } = this;
    const query = this.queries.subarray(token * depth, (token + 1) * depth);
    const scores = new Float64Array(this.tokens);
    for (let key = 0, at = 0; key < scores.length; key++) {
      let sum = 0;
      for (let d = 0; d < depth; d++) sum += query[d] * keys[at++];
      scores[key] = sum;
    }
    return scores;
  }

  // The chunk of a token in a round, numbered over all windows; -1 where there are no chunks.
  chunk(token, round) {
    const region = this.regions[this.region[token]];
    if (!region.order) return -1;
    const place = this.places[Math.min(round, region.rounds - 1) * this.tokens + token];
    const window = Math.floor(place / (region.tokens * region.rounds));
    return region.firstChunk + window * region.chunks + Math.floor((place % region.tokens) / region.size);
  }

  // How often a token meets each key in one round.
  counts(token, round, scores) {
    const counts = new Uint16Array(this.tokens);
    const region = this.regions[this.region[token]];
    if (round >= region.rounds) return counts;
    const place = this.places[round * this.tokens + token];
    if (region.order) this.#countChunks(region, place, counts);
    else this.#countKeys(region, place, counts, scores);
    return counts;
  }

  #countChunks(region, place, counts) {
    const { tokens, size, chunks } = region;
    const own = place % tokens;
    const start = place - own;
    const chunk = Math.floor(own / size);
    for (const offset of chunks === 1 ? [0] : region.offsets) {
      const first = ((chunk + offset + chunks) % chunks) * size;
      for (let met = first; met < first + size; met++) {
        if (met < tokens) counts[region.order[start + met]]++;
        // The authors' code fills the last chunk with the last tokens once more.
        else if (region.repeat && chunks > 1) counts[region.order[start + met - (chunks * size - tokens)]]++;
      }
    }
  }

  #countKeys(region, place, counts, scores) {
    if (region.lists) {
      for (let i = place * region.keys; i < (place + 1) * region.keys; i++) counts[region.lists[i]] = 1;
      return;
    }
    const start = place - (place % region.tokens);
    const pixels = Array.from(region.pixels.subarray(start, start + region.tokens));
    pixels.sort((a, b) => scores[b] - scores[a]).slice(0, region.keys).forEach((key) => { counts[key] = 1; });
  }

  static softmax(scores, counts) {
    let largest = -Infinity;
    let total = 0;
    scores.forEach((score, i) => { if (!counts || counts[i]) largest = Math.max(largest, score); });
    const weights = scores.map((score, i) => (counts ? counts[i] : 1) * Math.exp(score - largest));
    weights.forEach((weight) => { total += weight; });
    return weights.map((weight) => weight / total);
  }

  // Everything about one token. `round` counts from 1, 0 is all rounds together.
  look(token, round) {
    const scores = this.scores(token);
    const dense = Attended.softmax(scores, null);
    const each = Array.from({ length: this.rounds }, (_, r) => this.counts(token, r, scores));
    const row = (counts, round) => ({
      counts,
      attended: counts.reduce((sum, count) => sum + (count > 0), 0),
      kept: dense.reduce((sum, share, i) => sum + (counts[i] > 0 ? share : 0), 0),
      chunk: round === null ? -1 : this.chunk(token, round),
      code: round === null || !this.codes ? -1 : this.codes[round * this.tokens + token],
    });
    const all = row(each[0].map((_, i) => each.reduce((sum, counts) => sum + counts[i], 0)), null);
    const found = each.map(row);
    const chosen = round ? found[round - 1] : all;
    const weights = chosen.attended ? Attended.softmax(scores, chosen.counts) : new Float64Array(this.tokens);
    return { dense, weights, all, rounds: found, chosen };
  }
}
