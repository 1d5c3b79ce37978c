"""Pages for the tests of quality, written for them: clean ones that must survive and planted ones that must not.

`tests/oracles/datatrove.py` asks datatrove about the English ones.
"""

from __future__ import annotations

CLEAN_ZH = {
    "prose": (
        "老街的尽头有一家修表铺，门面只有一张桌子那么宽。师傅姓陈，今年七十三岁，从十六岁起就坐在这扇窗前。\n"
        "他说，修表最难的不是手艺，而是耐心。一块表拆开之后有一百多个零件，少了哪一个都走不准；可是急着装回去的人，"
        "往往装到最后会多出一颗螺丝来。\n"
        "前几年手机普及，来修表的人一下子少了许多，儿子劝他把铺子关掉，他没有答应。后来又有年轻人拿着祖父留下的旧表找上门，"
        "说想让它再走起来。陈师傅收下表，在本子上写明日期和毛病，答应下个星期给回音。\n"
        "“走得准不准是其次，”他一边拧上后盖一边说，“要紧的是，有人还愿意听它走。”\n"
    ),
    "science": (
        "月亮本身并不发光，我们看见的是它反射的太阳光。因为月亮绕着地球转，被照亮的半边有时正对着我们，有时背对着我们，"
        "所以形状每天都在变化，大约二十九天半重复一次。\n\n"
        "当太阳、地球和月亮正好排成一条直线，而月亮走进地球的影子里时，就会发生月食。月食只可能出现在满月的晚上，"
        "但并不是每个满月都有月食，因为月亮的轨道和地球的轨道之间有一个约五度的夹角，多数时候月亮会从影子的上方或下方经过。\n\n"
        "古人很早就注意到了这个规律。汉代的历书里已经能推算月食的日期，误差不过一两天；到了元代，郭守敬用更精密的仪器，"
        "把误差缩小到了几刻钟。\n"
    ),
    "dialogue": (
        "甲：请问去火车站怎么走？\n乙：一直往前，到第二个红绿灯左转，再走五分钟就到了。\n甲：坐公交车方便吗？\n"
        "乙：方便，前面那个站牌就有十二路，两站下车。不过现在是下班时间，路上堵，不如走过去。\n甲：大概要多久？\n"
        "乙：走快一点，一刻钟吧。你的车几点开？\n甲：七点二十，应该来得及。\n乙：那不用着急，现在才六点半。\n"
        "甲：太好了，谢谢您！\n乙：不客气，一路顺风。\n"
    ),
    "poem": "春曉\n春眠不覺曉，處處聞啼鳥。\n夜來風雨聲，花落知多少。\n",
    "couplet": "句\n未離海底千山黑，纔到天中萬國明。\n",
    "songs": (
        "采薇\n采薇采薇，薇亦作止。\n曰归曰归，岁亦莫止。\n靡室靡家，猃狁之故。\n不遑启居，猃狁之故。\n"
        "采薇采薇，薇亦柔止。\n曰归曰归，心亦忧止。\n忧心烈烈，载饥载渴。\n我戍未定，靡使归聘。\n"
        "采薇采薇，薇亦刚止。\n曰归曰归，岁亦阳止。\n王事靡盬，不遑启处。\n忧心孔疚，我行不来。\n"
    ),
    "classical": (
        "晋太元中，武陵人捕鱼为业。缘溪行，忘路之远近。忽逢桃花林，夹岸数百步，中无杂树，芳草鲜美，落英缤纷。渔人甚异之，"
        "复前行，欲穷其林。\n林尽水源，便得一山，山有小口，仿佛若有光。便舍船，从口入。初极狭，才通人。复行数十步，"
        "豁然开朗。土地平旷，屋舍俨然，有良田、美池、桑竹之属。阡陌交通，鸡犬相闻。\n"
    ),
    "manual": (
        "名称\nhead - 显示文件的开头部分\n\n概述\nhead [选项]... [文件]...\n\n描述\n"
        "将每个指定文件的前 10 行显示到标准输出。如果指定了多于一个文件，在每一段输出前会给出文件名作为文件头。"
        "如果没有指定文件，或者文件为 \"-\"，则从标准输入读取数据。\n\n"
        "-c, --bytes=[-]K\n显示每个文件的前 K 字节内容；如果附加 \"-\" 参数，则除了每个文件的最后 K 字节数据外，显示剩余的全部内容。\n\n"
        "-n, --lines=[-]K\n显示每个文件的前 K 行内容；如果附加 \"-\" 参数，则除了每个文件的最后 K 行外，显示剩余的全部内容。\n\n"
        "作者\n由 David MacKenzie 和 Jim Meyering 编写。\n\n报告错误\n请向在线帮助的页面报告翻译中的错误。\n"
    ),
    "technical": (
        "训练语言模型时，数据比结构更重要。我们先把网页里的正文取出来，去掉导航、广告和版权声明，再按语言分开，分别计算重复的比例。"
        "中文没有空格，所以不能按空格切词；一个汉字算一个单位，英文则按单词计算。\n"
        "安装只要一行：pip install danlu。之后运行 danlu run quickstart，大约十分钟就能得到第一个模型，用 CPU 即可。"
        "如果想换成自己的文件，把 source 改成文件夹的名字就行。\n"
    ),
    "traditional": (
        "外婆的廚房總是最早亮燈。天還沒亮，她已經把米洗好，放在灶上慢慢地熬。我們這些孩子醒來的時候，整間屋子都是粥的香味。\n"
        "她從來不用量杯，也不看時鐘，一切都憑手感。母親問她要多少水，她就把手指伸進鍋裡，說：「到這個關節就好。」"
        "許多年以後，我在另一個城市學著煮粥，才發現自己的手指比她的長，煮出來的總是太稀。\n"
    ),
    "recipe": (
        "番茄炒蛋的做法\n\n材料：番茄两个，鸡蛋三个，葱一根，盐和糖少许。\n\n"
        "一、番茄洗净切块，鸡蛋打散，加一点盐。\n二、锅里放油，油热后倒入蛋液，凝固了就盛出来。\n"
        "三、再放一点油，下番茄翻炒，等它出汁以后加半勺糖。\n四、把鸡蛋倒回去，炒匀，撒上葱花就可以出锅了。\n\n"
        "小提示：番茄要选熟透的，炒的时候火不要太大，汁才会浓。\n"
    ),
}  # fmt: skip

CLEAN_EN = {
    "essay": (
        "The lighthouse at the end of the point was built in a hurry, after a winter in which three ships were lost on the "
        "same rocks. The masons worked by lamplight and did not wait for the mortar to cure, and for that reason the tower "
        "has leaned a little to the west ever since.\n\n"
        "Nobody lives there now. The lamp turns by itself, and once a month a man comes in a small boat to clean the glass "
        "and to write down the hours it burned. He says that the hardest part of the work is the stairs, because the steps "
        "were cut for shorter legs than his. On clear days he eats his lunch at the top and watches the ferries go by.\n\n"
        "People in the village still set their clocks by the light. They know that it comes on a few minutes before dusk, "
        "and they call the children home when it does. Ask them why, and they will tell you that it has always been so.\n"
    ),
    "manual": (
        "The scheduler decides which requests take part in the next step and how many tokens each of them may use. It has no "
        "notion of a prompt phase or of a decoding phase. Instead, every step is a map from a request to a number of tokens, "
        "and the sum of these numbers must not exceed the budget that was set at the start.\n\n"
        "When memory runs out, the request that came last gives up its blocks and goes back to the queue. Nothing that it "
        "produced is lost, because its tokens are kept and are computed again when there is room. This makes a full server "
        "slower, but it never makes it wrong.\n\n"
        "You can watch the queue with the metrics page. If the number of waiting requests grows for more than a minute, the "
        "machine is too small for the load, and you should either lower the limit of concurrent streams or add memory.\n"
    ),
    "story": (
        '"You are late," said the old woman, without looking up from her knitting.\n\n'
        '"The river was high," said the boy. "I had to go round by the mill, and the miller wanted to talk about his pigs. '
        'He has eleven of them now. He told me all of their names."\n\n'
        '"And the letter?"\n\n'
        "He took it out of his coat and put it on the table between them. It was a little damp at one corner, but the seal "
        "was whole. She let the needles rest in her lap and looked at it for a long time, as one looks at a dog that may or "
        "may not bite. Then she got up, opened the door of the stove, and threw it in.\n\n"
        '"Well," she said, "that is that. Have you had your supper?"\n'
    ),
}

SPAM_ZH = {
    "gambling": (
        "澳门娱乐城官网，百家乐平台注册送彩金，首存送百分之百。真人视讯，时时彩计划，稳赚不赔，日赚千元不是梦！"
        "加微信领取体验金，在线客服二十四小时为您服务，点击注册，开户即送八十八元，提款三分钟到账，信誉保证。\n"
    ),
    "keywords": (
        "手机壳 苹果手机壳 华为手机壳 小米手机壳 手机壳批发 手机壳厂家 手机壳定制 手机壳图片 手机壳价格 手机膜 钢化膜 "
        "苹果钢化膜 华为钢化膜 手机支架 车载支架 数据线 充电器 快充充电器 无线充电器 充电宝 移动电源 蓝牙耳机 "
        "耳机批发 耳机厂家 耳机价格 耳机图片 手机配件 手机配件批发 手机配件厂家 手机配件价格\n"
    ),
    "links": "".join(
        f"{name} http://www.example{i}.com/\n"
        for i, name in enumerate(("小说下载", "电影天堂", "同城交友", "二手汽车", "装修公司", "律师咨询", "旅游攻略", "考试资料", "游戏攻略", "天气预报"))
    ),
    "garbled": "锟斤拷烫烫烫屯屯屯锟斤拷瀛﹀憳鍙戝竷鐨勬枃绔犲凡缁忚绠＄悊鍛樺垹闄わ紝璇疯仈绯诲鏈嶃€傛杩庢潵鍒版垜浠殑缃戠珯锛岃娉ㄥ唽鎴愪负浼氬憳銆\n",
    "shuffled": "鑫彝垦孚颧濮蘸藁黍跤锂褫钌菽狰骛麝垩榷邳戕睇铳糸厝瘐蘼珩鸱啶逵馐佤氩屐腧鲰胩轸崮隰囔钴埚赧瓞蓼鳌楂崴腴\n",
    "template": "欢迎光临本店，本店主营各类商品，质量保证，价格优惠，欢迎选购。\n" * 12,
    "template_names": "".join(
        f"{city}专业搬家公司电话，{city}搬家公司价格，{city}长途搬家公司哪家好，找{city}搬家公司就选我们，服务周到价格低。"
        for city in ("北京", "上海", "广州", "深圳", "天津", "重庆", "杭州", "南京", "武汉", "成都", "西安", "苏州")
    )
    + "\n",
    "advertising": (
        "本店长期代开发票，需要的老板请加微信详谈，量大从优。新用户免费领取体验金，点击链接注册即可到账，"
        "在线客服二十四小时为您服务，送彩金活动火热进行中。\n"
    ),
    "menu": "首页\n新闻\n体育\n财经\n娱乐\n科技\n汽车\n房产\n教育\n时尚\n健康\n旅游\n游戏\n视频\n图片\n论坛\n博客\n微博\n更多\n登录\n注册\n",
}  # fmt: skip

SPAM_EN = {
    "keywords": " ".join(["cheap phone case best phone case buy phone case online phone case sale discount phone case"] * 12)
    + "\n",
    "links": "".join(f"Partner {i} http://www.partner-site-number-{i}.com/index.html\n" for i in range(60)),
    "casino": (
        "Online casino bonus for new players! Sign up now and get free spins, no deposit bonus and the best price. Click here "
        "to play online slots and online poker today. Limited time offer, act now! Our online casino has the best casino games "
        "and the fastest payouts of all. Buy now and win. Order now and get one hundred free spins with every deposit you make. "
        "Do not wait, click here and start to win at the online casino that all of our players love the most of all.\n"
    ),
    "template": "Our store has the best prices in town and we deliver to your door.\n" * 20,
    "lorem": "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore.\n" * 4,
    "menu": "Home\nAbout us\nProducts\nServices\nContact\nLogin\nRegister\nCart\nSearch\nHelp\nSitemap\nTerms\nNews\nBlog\n" * 4,
    "code": "function f() { return 1; }\nvar x = { a: 1, b: 2 };\nif (x.a) { f(); } else { g(); }\n" * 8,
    "bullets": "".join(f"- item number {i} of the list of things that we have\n" for i in range(30)),
    "breaks off": "".join(f"This is the teaser of the story with number {word} and more to read...\n" for word in
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")),
    "hashes": " ".join(f"#tag{i} the #word{i} of #day{i}" for i in range(40)) + "\n",
    "short": "Nothing to see here.\n",
}  # fmt: skip
