"""Graph models that go node by node along a depth-first path.

A graph whose nodes are numbered depth-first is drawn node by node. Read the files in this order:

1. `depth_first`: a graph as V categories for each node, its *code*;
2. `node_states`: what edges a node may still get;
3. `paths`: the path of a partly drawn graph, and what is known of the nodes on it;
4. `support`, and `completion` for models that know environments: which values are possible;
5. `path_layers` and `network`: the probabilities of the possible values;
6. `path_model`: the graph model that consists of these.

Only some models load the other files: `sum_states`, the states of models without environments;
`contributions`, of models with conditions; `data_rules`, which measures a training set; `orders`,
which adds up several node orders.

For example, acetamide, CC(N)=O, of the node categories c, n and o (0, 1, 2):

    node              0 c   1 c   2 n   3 o
    backtrack         0     0     0     1      node 3 goes one level back, from node 2 to node 1
    label of edge     0     1     1     2      category of the edge to the parent plus 1; 0: none
    category          0     0     1     2
    length            0     0     0     0      in a ring of nodes 0, 1 and 2: 2 at node 2,
    label of closure  0     0     0     0      and 1

Before node 3, the path is c-c-n, and what is known of its nodes stands in columns (`paths`):

    level             0     1     2
    held_at           1     2     3            number of the node plus 1; 0: no node
    category          0     0     1
    weight            1     2     1            sum of the weights of its edges, here their labels
    degree            1     2     1
    state             c: c  c: c, n  n: c      what edges it has

`support` and `completion` go on with this example: which values are possible for node 3.

The words of these files:

- The *number* of a node is its place in the node order, from 0.
- The *path* is the nodes from the first one to the last one that was added, each the *parent* of
  the next. The *level* of a node is its distance from the first node along it.
- The *column* of a level is where tables have the node at this level: `pad` + level.
- *Above* a node are the nodes of the path that are nearer to the first one: they have smaller
  levels, and stand in columns further left. *Below* it are those with larger levels.
- The *backtrack* of a node is the number of levels from the node before it up to its parent.
- A *closure* is an edge to another node on the path than the parent. Its *length* is the difference
  of the levels.
- The *label* of an edge is its category plus 1; 0 stands for no edge.
- The *state* of a node says what edges it has so far, as far as this matters for what edges it may
  still get.

Some numbers are shifted by 1, so that 0 says "none":

    label              category of an edge plus 1
    held_at            number of a node plus 1: the position of the attention that holds it
    token              number of a combination of facts about a node, plus 1 (`path_layers`)
    lengths, labels    0 where a node has no further closure

The argument `back` is the largest backtrack plus 1, the number of values of this variable.

One node goes this way, in scoring and in drawing:

    PathNetwork.steps (scoring)         the step of the first variable, the backtrack
      or PathDrawing.step (drawing)
        PathNetwork.logits              the distribution of the variable of a step
            NodeHeads.logits                from what the attention says
            UndecidedNodes.possible         of the possible values only
        PathNetwork.next_variable       its value leads to the step of the next variable
            PathNetwork.next_hidden
                NodeHeads.embed
                Support.add
    PathDrawing.update (drawing)        the node joins the path

Sizes of tensors have these letters. Of graphs: B of them with up to N nodes, V variables of a node,
J edges of a node to earlier ones. Of several nodes or paths at a time: R or M, and K of these. Of
tables: W columns of levels; S states, C node categories, E edge categories (E + 1 labels); U
backtracks, L lengths of closures, Q values of any variable. Of the network: D channels, G channels
of an output head, H attention heads, P conditions.
"""
