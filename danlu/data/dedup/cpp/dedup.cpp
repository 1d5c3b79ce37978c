// The hot loops of the search for duplicates; the Python beside each caller gives the same numbers.
//
//   records   W unsigned 32-bit words, most significant first: sorting records is comparing words from the left
//   band keys 4 rows of a signature folded into 64 bits (bands.py)
//   walk      buckets of equal keys -> verified edges -> two forests (walk.py)
//   windows   hashes of K symbols, by doubling (windows.py)
//
// Nothing here allocates by the size of the input except the walk's lists of at most 24 members.

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr uint64_t M0 = 0x9E3779B97F4A7C15ull, M1 = 0xC2B2AE3D27D4EB4Full;
constexpr int PERMUTATIONS = 128, ROWS = 4;

template <int W>
struct Record {
  uint32_t word[W];

  uint64_t head() const { return (static_cast<uint64_t>(word[0]) << 32) | word[1]; }
  bool operator<(const Record& other) const {
    const uint64_t a = head(), b = other.head();
    if (a != b) return a < b;
    return std::lexicographical_compare(word + 2, word + W, other.word + 2, other.word + W);
  }
};

// The first words are hashes: records are laid out by which 1,024th of the range they fall into (in place, "American
// flag" sort), which leaves pieces that fit into the cache.
template <int W>
void sort_records(uint32_t* words, int64_t n) {
  static_assert(sizeof(Record<W>) == 4 * W);
  auto* records = reinterpret_cast<Record<W>*>(words);
  constexpr int PIECES = 1024;
  if (n < 4 * PIECES) return std::sort(records, records + n);
  uint32_t low = UINT32_MAX, high = 0;
  for (int64_t i = 0; i < n; ++i) {
    low = std::min(low, records[i].word[0]);
    high = std::max(high, records[i].word[0]);
  }
  const uint64_t scale = (static_cast<uint64_t>(PIECES) << 32) / (static_cast<uint64_t>(high - low) + 1);
  const auto piece = [&](const Record<W>& record) { return ((record.word[0] - low) * scale) >> 32; };
  std::array<int64_t, PIECES + 1> end{};
  for (int64_t i = 0; i < n; ++i) ++end[piece(records[i]) + 1];
  for (int p = 0; p < PIECES; ++p) end[p + 1] += end[p];
  std::array<int64_t, PIECES> next;
  std::copy(end.begin(), end.end() - 1, next.begin());
  for (int p = 0; p < PIECES; ++p)
    while (next[p] < end[p + 1]) {
      Record<W> moving = records[next[p]];
      for (uint64_t home = piece(moving); home != static_cast<uint64_t>(p); home = piece(moving))
        std::swap(moving, records[next[home]++]);
      records[next[p]++] = moving;
    }
  for (int p = 0; p < PIECES; ++p) std::sort(records + end[p], records + end[p + 1]);
}

// ---- forests ------------------------------------------------------------------------------------------------------

uint32_t find(uint32_t* parent, uint32_t i) {
  while (parent[i] != i) {
    parent[i] = parent[parent[i]];
    i = parent[i];
  }
  return i;
}

bool unite(uint32_t* parent, uint32_t i, uint32_t j) {
  const uint32_t a = find(parent, i), b = find(parent, j);
  if (a == b) return false;
  parent[std::max(a, b)] = std::min(a, b);  // the smaller is the root, so the root is the smallest of all
  return true;
}

// ---- the walk -----------------------------------------------------------------------------------------------------

struct Table {
  const uint32_t* rows;  // null where it lies in a file
  int file;
  int64_t start;  // position of its first row among all tables
  int64_t count;
};

constexpr int64_t UNREADABLE = -(int64_t{1} << 62);

struct Walk {
  std::vector<Table> tables;
  const uint32_t* order;  // rank -> position
  uint32_t *near, *loose;
  int need_near, need_loose, need_doubt;
  int64_t guarded;
  bool across;
  int few;
  int64_t compared = 0;

  bool begun = false;
  uint64_t key = 0;
  uint32_t previous = 0;
  int64_t count = 0;
  std::vector<uint32_t> early, leaders;

  struct Slot {
    int64_t rank = -1;
    uint32_t row[PERMUTATIONS];
  };
  Slot old, fresh;  // rows read from files: of the one compared with, and of the member whose turn it is
  bool unreadable = false;

  const uint32_t* row(uint32_t rank, Slot& slot) {
    const int64_t position = order[rank];
    for (const Table& table : tables) {
      if (position >= table.start + table.count) continue;
      const int64_t place = position - table.start;
      if (table.rows) return table.rows + place * PERMUTATIONS;
      if (slot.rank != rank) {
        if (pread(table.file, slot.row, sizeof slot.row, place * sizeof slot.row) != sizeof slot.row) unreadable = true;
        slot.rank = rank;
      }
      return slot.row;
    }
    return nullptr;
  }

  int agreement(uint32_t i, uint32_t j) {
    const uint32_t *a = row(i, old), *b = row(j, fresh);
    int same = 0;
    for (int k = 0; k < PERMUTATIONS; ++k) same += a[k] == b[k];
    ++compared;
    return same;
  }

  bool idle(uint32_t a, uint32_t b) const {
    const bool one = a < guarded, two = b < guarded;
    return (one && two) || (across && !one && !two);
  }

  // Compare the new member with one before it. Returns true when they are now in one near cluster.
  bool look(uint32_t other, uint32_t member, uint32_t*& edge) {
    if (idle(other, member)) return false;
    if (find(near, other) == find(near, member)) return true;
    const int same = agreement(other, member);
    if (same < need_loose) return false;
    const bool joined = same >= need_near && unite(near, other, member);
    const bool tied = unite(loose, other, member);
    if (joined || tied || (same >= need_doubt && same < need_near)) {
      edge[0] = other;
      edge[1] = member;
      edge[2] = static_cast<uint32_t>(same);
      edge += 3;
    }
    return joined;
  }

  void add(uint64_t its_key, uint32_t member, uint32_t*& edge) {
    if (!begun || its_key != key) {
      begun = true;
      key = its_key;
      count = 0;
      early.clear();
      leaders.clear();
    }
    bool led = false;
    if (count < few) {
      for (uint32_t other : early) look(other, member, edge);
      for (uint32_t leader : leaders)
        if (!idle(leader, member) && find(near, leader) == find(near, member)) {
          led = true;
          break;
        }
      early.push_back(member);
    } else {
      for (uint32_t leader : leaders)
        if (look(leader, member, edge)) {
          led = true;
          break;
        }
      if (!led) led = look(previous, member, edge);
    }
    if (!led && static_cast<int>(leaders.size()) < few) leaders.push_back(member);
    previous = member;
    ++count;
  }
};

// ---- windows ------------------------------------------------------------------------------------------------------

inline uint64_t mix(uint64_t a, uint64_t b, uint64_t seed) {
  uint64_t x = (a ^ seed) * M0;
  x = (x ^ (x >> 29)) + b;
  x *= M1;
  return x ^ (x >> 32);
}

}  // namespace

extern "C" {

// records uint32 [n, words] in place; returns false for a width that is not known.
bool dedup_sort(uint32_t* records, int64_t n, int words) {
  switch (words) {
    case 2: sort_records<2>(records, n); return true;
    case 3: sort_records<3>(records, n); return true;
    case 4: sort_records<4>(records, n); return true;
    case 5: sort_records<5>(records, n); return true;
    case 6: sort_records<6>(records, n); return true;
    default: return false;
  }
}

// rows uint32 [n, 128], bands int32 [b] -> keys uint64 [b, n]
void dedup_band_keys(const uint32_t* rows, int64_t n, const int32_t* bands, int n_bands, uint64_t* keys) {
  for (int64_t i = 0; i < n; ++i)
    for (int b = 0; b < n_bands; ++b) {
      const uint32_t* part = rows + i * PERMUTATIONS + bands[b] * ROWS;
      uint64_t key = 0;
      for (int r = 0; r < ROWS; ++r) key = (key ^ (key >> 29)) * M0 + part[r];
      key = (key ^ (key >> 32)) * M1;
      keys[b * n + i] = key ^ (key >> 29);
    }
}

void* dedup_walk_new(const uint32_t* const* tables, const int64_t* counts, const int32_t* files, int n_tables,
                     const uint32_t* order, uint32_t* near, uint32_t* loose, int need_near, int need_loose,
                     int need_doubt, int64_t guarded, int across, int few) {
  auto* walk = new Walk;
  int64_t start = 0;
  for (int t = 0; t < n_tables; ++t) {
    walk->tables.push_back({tables[t], files[t], start, counts[t]});
    start += counts[t];
  }
  walk->order = order;
  walk->near = near;
  walk->loose = loose;
  walk->need_near = need_near;
  walk->need_loose = need_loose;
  walk->need_doubt = need_doubt;
  walk->guarded = guarded;
  walk->across = across != 0;
  walk->few = few;
  return walk;
}

void dedup_walk_free(void* handle) { delete static_cast<Walk*>(handle); }

int64_t dedup_walk_compared(void* handle) { return static_cast<Walk*>(handle)->compared; }

// records uint32 [n, 3] = (key high, key low, rank), ascending; edges has room for uint32 [n * (few + 1), 3].
// Returns the number of edges, -1 - i where record i is out of order, UNREADABLE where a row could not be read.
int64_t dedup_walk_feed(void* handle, const uint32_t* records, int64_t n, uint32_t* edges) {
  auto* walk = static_cast<Walk*>(handle);
  uint32_t* edge = edges;
  for (int64_t i = 0; i < n; ++i, records += 3) {
    const uint64_t key = (static_cast<uint64_t>(records[0]) << 32) | records[1];
    if (walk->begun && (key < walk->key || (key == walk->key && records[2] <= walk->previous))) return -1 - i;
    walk->add(key, records[2], edge);
  }
  if (walk->unreadable) return UNREADABLE;
  return (edge - edges) / 3;
}

void dedup_walk_end_of_band(void* handle) { static_cast<Walk*>(handle)->begun = false; }

// out uint8 [n]: how many of the 128 places of ranks a[i] and b[i] agree; false where a row could not be read.
bool dedup_walk_agreements(void* handle, const uint32_t* a, const uint32_t* b, int64_t n, uint8_t* out) {
  auto* walk = static_cast<Walk*>(handle);
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<uint8_t>(walk->agreement(b[i], a[i]));
  return !walk->unreadable;
}

// Unite along edges uint32 [n, 3] = (i, j, agreement) in both forests.
void dedup_replay(const uint32_t* edges, int64_t n, uint32_t* near, uint32_t* loose, int need_near) {
  for (int64_t e = 0; e < n; ++e, edges += 3) {
    if (static_cast<int>(edges[2]) >= need_near) unite(near, edges[0], edges[1]);
    unite(loose, edges[0], edges[1]);
  }
}

// Every element's parent becomes its root. Parents are never larger than their children, so one pass is enough.
void dedup_flatten(uint32_t* parent, int64_t n) {
  for (int64_t i = 0; i < n; ++i) parent[i] = parent[parent[i]];
}

// symbols uint64 [n] -> out uint64 [n - length + 1]: the hash of every run of `length` symbols.
// In blocks that stay in the cache: a block reads `length` symbols more than it writes.
void dedup_windows(const uint64_t* symbols, int64_t n, int64_t length, uint64_t seed, uint64_t* out) {
  const int64_t total = n - length + 1;
  const int64_t block = std::max<int64_t>(4096, length);
  std::vector<uint64_t> power(block + length), sum(block);
  for (int64_t begin = 0; begin < total; begin += block) {
    const int64_t wanted = std::min(block, total - begin);
    int64_t left = wanted + length - 1;  // entries of `power` that are defined
    std::memcpy(power.data(), symbols + begin, left * sizeof(uint64_t));
    bool first = true;
    int64_t done = 0;  // symbols already in `sum`
    for (int64_t size = 1;; size *= 2) {
      if (length & size) {
        if (first) {
          for (int64_t i = 0; i < wanted; ++i) sum[i] = power[i] * M1 + seed;
        } else {
          for (int64_t i = 0; i < wanted; ++i) sum[i] = mix(sum[i], power[i + done], seed + done);
        }
        first = false;
        done += size;
      }
      if (done == length) break;
      left -= size;
      for (int64_t i = 0; i < left; ++i) power[i] = mix(power[i], power[i + size], seed - size);
    }
    std::memcpy(out + begin, sum.data(), wanted * sizeof(uint64_t));
  }
}

// hashes uint64 [n], valid bool [n - window + 1] -> chosen bool [n]: the smallest of every valid window of neighbours, all
// of them where several are equal. A queue of places with hashes that do not fall holds what may still become smallest.
void dedup_winnow(const uint64_t* hashes, int64_t n, int64_t window, const uint8_t* valid, uint8_t* chosen) {
  std::vector<int64_t> queue(n);
  int64_t front = 0, back = 0;
  for (int64_t i = 0; i < n; ++i) {
    while (back > front && hashes[queue[back - 1]] > hashes[i]) --back;
    queue[back++] = i;
    const int64_t begin = i - window + 1;
    if (begin < 0) continue;
    while (queue[front] < begin) ++front;
    if (!valid[begin]) continue;
    const uint64_t smallest = hashes[queue[front]];
    // Equal ones stand at the front. Once they are chosen, only new ones at the back can be missing, because of windows
    // that share a place either all are valid or those that are not come before or behind.
    if (!chosen[queue[front]])
      for (int64_t q = front; q < back && hashes[queue[q]] == smallest; ++q) chosen[queue[q]] = 1;
    else
      for (int64_t q = back - 1; q > front && hashes[queue[q]] == smallest && !chosen[queue[q]]; --q) chosen[queue[q]] = 1;
  }
}

}  // extern "C"
